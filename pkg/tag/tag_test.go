package tag

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/ca"
	"sallyport/pkg/confine"
)

var update = flag.Bool("update", false, "write the golden files")

func unit() Unit {
	return Unit{
		Slice: "mcp.slice", Workload: "github",
		Hidden:   []string{"/run/dbus", "/run/docker.sock", "/run/user", "/srv/with space/agent"},
		Kept:     []ca.Kept{{Variable: "PIP_CERT", Path: "/srv/100%/own.pem"}},
		Own:      []string{"/run/sallyport", "/var/lib/sallyport/ca"},
		Families: familiesOf(nil, false),
		Mounts: []ca.Mount{
			{Source: "/var/lib/sallyport/trust/current/places/etc/ssl/certs", Target: "/etc/ssl/certs"},
			{Source: "/var/lib/sallyport/trust/current", Target: "/odd:place"},
		},
		Environment: []string{"SSL_CERT_FILE=/var/lib/sallyport/trust/current/bundle.pem", "JAVA_TOOL_OPTIONS=-Dx=100% -Djavax.net.ssl.trustStore=/t"},
	}
}

// TestDropIn: the whole text, closed and with everything allowed.
func TestDropIn(t *testing.T) {
	open := unit()
	open.Allow, open.Workload = Openings(), ""
	strict := unit()
	strict.Families, strict.Allow = nil, []Opening{Namespaces}
	closed := unit()
	for name, u := range map[string]*Unit{"closed": &closed, "open": &open, "strict": &strict} {
		path, got := filepath.Join("testdata", name+".conf"), u.DropIn()
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		said, err := parseDropIn(got)
		if err != nil || said.Workload != u.Workload || !slices.Equal(said.Allow, u.Allow) || !slices.Equal(said.Kept, u.Kept) {
			t.Errorf("%s: read back %+v, %v", name, said, err)
		}
		// A stop of sallyport must never take the unit with it, and a list without
		// "-" keeps a unit from starting where something is missing.
		for l := range strings.Lines(got) {
			for _, bad := range []string{"Requires=", "BindsTo=", "PartOf=", "InaccessiblePaths=/", "BindReadOnlyPaths=/"} {
				if strings.HasPrefix(l, bad) {
					t.Errorf("%s: %s", name, l)
				}
			}
		}
	}
}

func TestParseDropIn(t *testing.T) {
	for _, text := range []string{"", "[Service]\nWorkload=x\n", "[X-Sallyport]\nAllow=everything\n"} {
		if said, err := parseDropIn(text); err == nil {
			t.Errorf("%q: %+v", text, said)
		}
	}
	if said, err := parseDropIn("[Service]\nWorkload=a\n[X-Sallyport]\nWorkload=b\n[Unit]\nWorkload=c\n"); err != nil || said.Workload != "b" {
		t.Errorf("%+v, %v", said, err)
	}
}

func TestParseOpenings(t *testing.T) {
	got, err := ParseOpenings([]string{"sockets, namespaces", "sockets"})
	if err != nil || !slices.Equal(got, []Opening{Namespaces, Sockets}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"all", "namespace", "Namespaces"} {
		if _, err := ParseOpenings([]string{bad}); err == nil || !strings.Contains(err.Error(), "namespaces,capabilities") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestFamiliesOf: a unit that allows itself less keeps less.
func TestFamiliesOf(t *testing.T) {
	all := confine.Families()
	for _, tt := range []struct {
		own     []string
		allowed bool
		want    []string
	}{
		{nil, false, all},
		{nil, true, nil}, // RestrictAddressFamilies=none
		{[]string{"AF_UNIX", "AF_PACKET"}, true, []string{"AF_UNIX"}},
		{[]string{"AF_INET6", "AF_PACKET"}, false, []string{"AF_UNIX", "AF_INET", "AF_NETLINK"}},
		{all, true, all},
	} {
		if got := familiesOf(tt.own, tt.allowed); !slices.Equal(got, tt.want) {
			t.Errorf("%v, %v: %v, want %v", tt.own, tt.allowed, got, tt.want)
		}
	}
}

// TestOwn: tagging again takes what the first drop-in set for its own.
func TestOwn(t *testing.T) {
	const trust = "/var/lib/sallyport/trust/current"
	got := ownVariables([]string{
		"A=1", "SSL_CERT_FILE=" + trust + "/bundle.pem", "PIP_CERT=/own.pem",
		"JAVA_TOOL_OPTIONS=-Xmx1g -Djavax.net.ssl.trustStore=" + trust + "/java.p12 -Djavax.net.ssl.trustStoreType=PKCS12",
	}, trust)
	if want := []string{"A=1", "PIP_CERT=/own.pem", "JAVA_TOOL_OPTIONS=-Xmx1g"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := ownVariables([]string{"JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore=" + trust + "/java.p12 -Djavax.net.ssl.trustStoreType=PKCS12"}, trust); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// FuzzParseDropIn: what is read of a text of any origin can be written and read
// again.
func FuzzParseDropIn(f *testing.F) {
	f.Add("[X-Sallyport]\nWorkload=a%%b\nAllow=sockets,users\nKept=SSL_CERT_FILE=/a\n")
	f.Fuzz(func(t *testing.T, text string) {
		said, err := parseDropIn(text)
		if err != nil {
			return
		}
		again, err := parseDropIn((&Unit{Workload: said.Workload, Allow: said.Allow, Kept: said.Kept}).DropIn())
		if err != nil || again.Workload != said.Workload || !slices.Equal(again.Allow, said.Allow) || !slices.Equal(again.Kept, said.Kept) {
			t.Errorf("%q: %+v, again %+v, %v", text, said, again, err)
		}
	})
}
