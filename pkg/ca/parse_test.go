package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// opensslHash is what we have to agree with.
func opensslHash(t *testing.T, der []byte) string {
	t.Helper()
	cmd := exec.Command("openssl", "x509", "-inform", "DER", "-noout", "-subject_hash")
	cmd.Stdin = bytes.NewReader(der)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// Every string type and every rule of the canonical form.
func TestSubjectHashOfStrangeNames(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	raw := func(tag int, b string) asn1.RawValue { return asn1.RawValue{Tag: tag, Bytes: []byte(b)} }
	cn := asn1.ObjectIdentifier{2, 5, 4, 3}
	o := asn1.ObjectIdentifier{2, 5, 4, 10}
	type attr struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type rdn []attr
	names := map[string][]rdn{
		"utf8":        {{{cn, raw(12, "  Größe  UND\tmehr ")}}},
		"printable":   {{{cn, raw(19, "A  B")}}},
		"ia5":         {{{cn, raw(22, "Mail@Example.COM")}}},
		"t61":         {{{cn, raw(20, "Gr\xf6\xdfe")}}},
		"bmp":         {{{cn, raw(30, "\x00A\x00 \x00 \x00\xdf")}}},
		"universal":   {{{cn, raw(28, "\x00\x00\x00A\x00\x00\x00B")}}},
		"numeric":     {{{cn, raw(18, "12 34")}}},
		"two rdns":    {{{o, raw(19, "Org")}}, {{cn, raw(19, "Name")}}},
		"multivalued": {{{cn, raw(19, "Zebra")}, {o, raw(12, "a")}}},
		"only spaces": {{{cn, raw(12, "   ")}}},
	}
	root := openRoot(t)
	for name, rdns := range names {
		var subject []byte
		for _, r := range rdns {
			der, err := asn1.MarshalWithParams([]attr(r), "set")
			if err != nil {
				t.Fatal(err)
			}
			subject = append(subject, der...)
		}
		der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: subject})
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: newSerial(), RawSubject: der, NotBefore: root.cert.NotBefore, NotAfter: root.cert.NotAfter, Subject: pkix.Name{}}
		cert, err := x509.CreateCertificate(nil, template, root.cert, &root.key.PublicKey, root.key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := subjectHash(der)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := opensslHash(t, cert); got != want {
			t.Errorf("%s: hash %s, openssl says %s", name, got, want)
		}
	}
}

func TestSubjectHashOfSystemRoots(t *testing.T) {
	data, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Skip("no system bundle")
	}
	entries, err := os.ReadDir("/etc/ssl/certs")
	if err != nil {
		t.Skip("no hash directory")
	}
	names := make(map[string]bool)
	for _, e := range entries {
		names[e.Name()] = true
	}
	checked := 0
	for _, der := range pemCertificates(data) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		hash, err := subjectHash(cert.RawSubject)
		if err != nil {
			t.Errorf("%s: %v", cert.Subject, err)
			continue
		}
		if !names[hash+".0"] && opensslHash(t, der) != hash {
			t.Errorf("%s: hash %s is not openssl's", cert.Subject, hash)
		}
		checked++
	}
	if checked < 10 {
		t.Skipf("only %d roots", checked)
	}
}

func TestReadJavaStoreOfKeytool(t *testing.T) {
	if _, err := exec.LookPath("keytool"); err != nil {
		t.Skip("keytool is not installed")
	}
	root := openRoot(t)
	dir := t.TempDir()
	pemFile := filepath.Join(dir, "root.pem")
	write(t, pemFile, string(root.PEM()))
	for _, kind := range []string{"JKS", "JCEKS", "PKCS12"} {
		store := filepath.Join(dir, kind)
		for _, args := range [][]string{
			{"-importcert", "-noprompt", "-alias", "Mine", "-file", pemFile},
			{"-genkeypair", "-alias", "key", "-keyalg", "EC", "-dname", "CN=x", "-keypass", "changeit"},
		} {
			if kind == "PKCS12" && args[0] == "-genkeypair" {
				continue // a trust store; go-pkcs12 refuses a mixture
			}
			cmd := exec.Command("keytool", append(args, "-J-Xint", "-keystore", store, "-storetype", kind, "-storepass", "changeit")...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		data, err := os.ReadFile(store)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readJavaStore(data)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if len(got) != 1 || !bytes.Equal(got[0].der, root.Certificate().Raw) {
			t.Errorf("%s: %d entries", kind, len(got))
		}
		for cut := range len(data) {
			readJKS(data[:cut]) // no panic
		}
	}
}

func TestEnvironment(t *testing.T) {
	paths := Paths{Bundle: "/t/b", Root: "/t/r"}
	all := []string{"SSL_CERT_FILE=/t/b", "REQUESTS_CA_BUNDLE=/t/b", "CURL_CA_BUNDLE=/t/b", "AWS_CA_BUNDLE=/t/b", "PIP_CERT=/t/b", "GIT_SSL_CAINFO=/t/b",
		"CARGO_HTTP_CAINFO=/t/b", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=/t/b", "NODE_EXTRA_CA_CERTS=/t/r", "DENO_CERT=/t/r"}
	without := func(names ...string) []string {
		var out []string
		for _, e := range all {
			keep := true
			for _, n := range names {
				keep = keep && !strings.HasPrefix(e, n+"=")
			}
			if keep {
				out = append(out, e)
			}
		}
		return out
	}
	const prop = "-Djavax.net.ssl.trustStore=/t/j -Djavax.net.ssl.trustStoreType=PKCS12"
	tests := map[string]struct {
		env  []string
		java string
		set  []string
		kept []Kept
	}{
		"nothing set":      {set: all},
		"empty value":      {env: []string{"SSL_CERT_FILE="}, set: all},
		"replacing kept":   {env: []string{"SSL_CERT_FILE=/u"}, set: without("SSL_CERT_FILE"), kept: []Kept{{Variable: "SSL_CERT_FILE", Path: "/u"}}},
		"adding kept":      {env: []string{"NODE_EXTRA_CA_CERTS=/u"}, set: without("NODE_EXTRA_CA_CERTS"), kept: []Kept{{Variable: "NODE_EXTRA_CA_CERTS", Path: "/u", Adds: true}}},
		"last one wins":    {env: []string{"PIP_CERT=/a", "PIP_CERT=/u"}, set: without("PIP_CERT"), kept: []Kept{{Variable: "PIP_CERT", Path: "/u"}}},
		"other variables":  {env: []string{"XSSL_CERT_FILE=/u", "SSL_CERT_DIR=/d"}, set: all},
		"java":             {java: "/t/j", set: append(without(), "JAVA_TOOL_OPTIONS="+prop)},
		"java appended":    {env: []string{"JAVA_TOOL_OPTIONS=-Xmx1g"}, java: "/t/j", set: append(without(), "JAVA_TOOL_OPTIONS=-Xmx1g "+prop)},
		"java of the user": {env: []string{"JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore=/u"}, java: "/t/j", set: all},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := paths
			p.Java = tt.java
			set, kept := Environment(tt.env, p)
			if diff := cmp.Diff(tt.set, set); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.kept, kept); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJavaHomeOutsideIsNotCovered(t *testing.T) {
	host, _ := debian(t)
	symlink(t, "/etc/ssl/certs/java/cacerts", filepath.Join(host, "usr/lib/jvm/distro/lib/security/cacerts"))
	write(t, filepath.Join(host, "opt/jdk/lib/security/cacerts"), "own")
	trust, _ := newTrust(t, host)
	for home, covered := range map[string]bool{"/usr/lib/jvm/distro": true, "/opt/jdk": false, "/nowhere": true} {
		if got := trust.Shared().Paths([]string{"JAVA_HOME=" + home}).Java == ""; got != covered {
			t.Errorf("JAVA_HOME=%s: covered %v", home, got)
		}
	}
	if p := trust.Shared().Paths(nil); p.Java != "" {
		t.Error("covered cacerts and the variable too")
	}
}

func FuzzReadJavaStore(f *testing.F) {
	root := openRoot(f)
	store, err := javaStore([]javaEntry{{der: root.Certificate().Raw}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(store)
	f.Add([]byte("\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x02\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05X.509\x00\x00\x00\x010"))
	f.Add([]byte("\xfe\xed\xfe\xed\x00\x00\x00\x01\xff\xff\xff\xff"))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := readJavaStore(data)
		if err == nil && len(entries) > 0 {
			if _, err := javaStore(entries); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzSubjectHash(f *testing.F) {
	f.Add(openRoot(f).Certificate().RawSubject)
	f.Add([]byte{0x30, 0x00})
	f.Add([]byte{0x30, 0x09, 0x31, 0x07, 0x30, 0x05, 0x06, 0x01, 0x2a, 0x1e, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		if hash, err := subjectHash(data); err == nil && len(hash) != 8 {
			t.Fatal(hash)
		}
	})
}
