package ca

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"strconv"
)

// The names in a trust directory.
const (
	BundleFile = "ca-certificates.crt"
	JavaFile   = "cacerts"

	// ourFile is our root in a directory that also holds the system's.
	ourFile  = "sallyport-root.pem"
	placeDir = "places"
	keptDir  = "kept"
)

// errNoRoots says that the host has no bundle at the moment. While one is being
// replaced that is normal, and the last known one stays.
var errNoRoots = errors.New("the host has no bundle of root certificates")

// A snapshot is what the host trusts, read at one moment.
type snapshot struct {
	places map[string]tree // by the directory to cover, links resolved
	bundle []byte          // the system's roots as PEM; empty if there is none
}

// snapshot reads the host's directories. A place that cannot be read is left
// out and reported: it is then not covered, and the variables have to do.
func (r hostRoot) snapshot() (snapshot, []error) {
	var problems []error
	s := snapshot{places: make(map[string]tree)}
	for _, dir := range r.places() {
		t, err := r.copyTree(dir)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		t.prune()
		s.places[dir] = t
	}
	for _, p := range wellKnownBundles() {
		at, err := r.resolve(p)
		if err != nil {
			continue
		}
		data, err := r.read(at.path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if len(pemCertificates(data)) > 0 {
			s.bundle = data
			break
		}
	}
	if len(s.bundle) == 0 {
		problems = append(problems, errNoRoots)
	}
	return s, problems
}

// authority is our root in the forms that go into files, with those before it
// that are still trusted.
type authority struct {
	pem   []byte // all
	roots []trusted
}

// trusted is one root, the one in use first.
type trusted struct {
	pem, der []byte
	hash     string
	file     string // its name beside the system's
}

func newAuthority(rootPEM []byte) (authority, error) {
	certs, err := parseAll(rootPEM)
	if err == nil && len(certs) == 0 {
		err = errors.New("no certificate")
	}
	if err != nil {
		return authority{}, fmt.Errorf("root certificate: %w", err)
	}
	var out authority
	for i, cert := range certs {
		hash, err := subjectHash(cert.RawSubject)
		if err != nil {
			return authority{}, fmt.Errorf("root certificate: %w", err)
		}
		t := trusted{pem: encodeCertificate(cert.Raw), der: cert.Raw, hash: hash, file: ourFile}
		if i > 0 {
			t.file = fmt.Sprintf("sallyport-root-before-%d.pem", i)
		}
		out.pem, out.roots = append(out.pem, t.pem...), append(out.roots, t)
	}
	return out, nil
}

// name tells trust directories apart: processes with different roots must not
// write into each other's. It is the oldest root's, so that a rotation goes into
// the directory that running workloads have.
func (a authority) name() string {
	sum := sha256.Sum256(a.roots[len(a.roots)-1].der)
	return hex.EncodeToString(sum[:8])
}

// A javaCache keeps one store for each input: making one takes some
// milliseconds, and a host has the same in several places.
type javaCache map[[sha256.Size]byte][]byte

// content is the whole of a trust directory.
type content struct {
	// top holds the files for variables, kept/ among them.
	top tree
	// places are the covered directories with what goes over them.
	places map[string]tree
	java   bool // a place holds a store for JVMs
}

// content makes what a directory is to hold. extra are certificates of one
// workload.
func (s snapshot) content(ours authority, extra []byte, java javaCache) (content, []error) {
	var problems []error
	bundle := node{data: joinPEM(s.bundle, ours.pem, extra)}
	out := content{
		top:    tree{RootFile: {data: ours.pem}, ours.roots[0].hash + ".0": {link: RootFile}, BundleFile: bundle},
		places: make(map[string]tree, len(s.places)),
	}
	store := func(host []byte) (node, bool) {
		data, err := java.store(s.bundle, host, ours, extra)
		if err != nil {
			problems = append(problems, fmt.Errorf("make Java trust store: %w", err))
		}
		return node{data: data}, err == nil
	}
	for dir, host := range s.places {
		place := maps.Clone(host)
		out.places[dir] = place
		// Programs that know only a directory look in its top, whether or not the
		// host has hash links there.
		hashed := map[string]bool{".": true}
		bundles := false
		for p, n := range host {
			if isHashLink(path.Base(p)) {
				hashed[path.Dir(p)] = true
			}
			if n.link != "" {
				continue
			}
			switch {
			case bundleName(p):
				place[p] = node{data: joinPEM(n.data, ours.pem, extra)}
				bundles = true
			case javaName(p):
				if n, ok := store(n.data); ok {
					place[p], out.top[JavaFile], out.java = n, n, true
				}
			}
		}
		for sub := range hashed {
			for _, r := range ours.roots {
				place[path.Join(sub, r.file)] = node{data: r.pem}
				place[path.Join(sub, freeHash(place, sub, r.hash))] = node{link: r.file}
			}
		}
		if !bundles && path.Base(dir) == "certs" {
			place[BundleFile] = bundle
		}
	}
	if !out.java {
		if n, ok := store(nil); ok {
			out.top[JavaFile] = n
		}
	}
	return out, problems
}

// write brings the directory at dest to the content. A place that is no longer
// known stays: a workload may still have it mounted.
func (c content) write(dest string) error {
	if err := makeDir(dest); err != nil {
		return err
	}
	for dir, place := range c.places {
		if err := place.write(filepath.Join(dest, placeDir, dir)); err != nil {
			return err
		}
	}
	return c.top.write(dest, placeDir)
}

// freeHash gives the first name for our hash that the host does not use.
func freeHash(place tree, sub, hash string) string {
	for i := 0; ; i++ {
		name := hash + "." + strconv.Itoa(i)
		if _, taken := place[path.Join(sub, name)]; !taken {
			return name
		}
	}
}

// store gives a Java store of the bundle, of what the host's own store holds
// beyond it, of ours and of extra. A host store that cannot be read adds none.
func (c javaCache) store(bundle, host []byte, ours authority, extra []byte) ([]byte, error) {
	h := sha256.New()
	for _, part := range [][]byte{bundle, host, ours.pem, extra} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	key := [sha256.Size]byte(h.Sum(nil))
	if data, ok := c[key]; ok {
		return data, nil
	}
	entries, err := readJavaStore(host)
	if err != nil && len(host) > 0 && !errors.Is(err, fs.ErrNotExist) {
		entries = nil
	}
	for _, der := range pemCertificates(joinPEM(bundle, extra)) {
		entries = append(entries, javaEntry{der: der})
	}
	for i, r := range ours.roots {
		alias := "sallyport-root"
		if i > 0 {
			alias += "-before-" + strconv.Itoa(i)
		}
		entries = append(entries, javaEntry{alias: alias, der: r.der})
	}
	data, err := javaStore(entries)
	if err != nil {
		return nil, err
	}
	if len(c) >= maxJavaCache {
		clear(c)
	}
	c[key] = data
	return data, nil
}

// maxJavaCache bounds the stores kept, some 200 KiB each. When it is full all
// are forgotten: they are only made again.
const maxJavaCache = 16
