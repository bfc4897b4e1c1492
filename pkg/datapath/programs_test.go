package datapath

import (
	"reflect"
	"testing"

	"sallyport/bpf"
)

// TestEveryProgramIsLoaded: a program that no half names would be missing
// without an error.
func TestEveryProgramIsLoaded(t *testing.T) {
	halves := make(map[string]int)
	for _, half := range []reflect.Type{reflect.TypeFor[firstHalf](), reflect.TypeFor[secondHalf]()} {
		for i := range half.NumField() {
			halves[half.Field(i).Tag.Get("ebpf")]++
		}
	}
	all := reflect.TypeFor[bpf.SallyportPrograms]()
	for i := range all.NumField() {
		name := all.Field(i).Tag.Get("ebpf")
		if halves[name] != 1 {
			t.Errorf("program %s is in %d halves, want 1", name, halves[name])
		}
		delete(halves, name)
	}
	for name := range halves {
		t.Errorf("there is no program %s", name)
	}
}
