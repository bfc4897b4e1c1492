package config

import "testing"

func TestReadYAML(t *testing.T) {
	v, err := ReadYAML(File{Name: "other.yaml", Data: []byte(`x-anchors: &a { deep: 5 }
one: [a, 2, true, null]
two: { <<: *a, text: "t", off: false }
bare: word
none:
`)})
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := v.Get("two").Get("deep").Number(); !ok || n != 5 {
		t.Errorf("an alias: %v %v", n, ok)
	}
	if !v.Get("x-anchors").IsNull() || !v.Get("missing").Get("deeper").IsNull() || !v.Get("none").IsNull() || v.Get("missing").Line() != 0 {
		t.Error("what is not there is there")
	}
	if items := v.Get("one").Items(); len(items) != 4 || items[1].Line() != 2 || items[1].Found() != "the number 2" {
		t.Errorf("list: %v", items)
	}
	if items := v.Get("bare").Items(); len(items) != 1 {
		t.Errorf("one item for a list: %v", items)
	}
	if b, ok := v.Get("two").Get("off").Bool(); b || !ok {
		t.Error("a boolean")
	}
	if _, ok := v.Get("two").Get("text").Number(); ok {
		t.Error("text is no number")
	}
	if e := v.Get("two").Entries(); len(e) != 3 || e[0].Key != "text" || e[0].Line != 3 {
		t.Errorf("entries: %v", e)
	}
	if _, err := ReadYAML(File{Name: "other.yaml", Data: []byte("a: [\n")}); err == nil {
		t.Error("broken YAML is read")
	}
	if v, err := ReadYAML(File{Name: "other.yaml"}); err != nil || !v.IsNull() || v.Found() != "nothing" {
		t.Errorf("an empty file: %v", err)
	}
}
