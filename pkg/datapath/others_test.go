package datapath_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"sallyport/pkg/datapath"
)

// TestOthers: another program at one of our hooks is seen, attached to a cgroup
// below the tagged one and above it, as a link; and it cannot open the gate.
func TestOthers(t *testing.T) {
	w := newWorld(t)
	tagged := w.cgroup("others")
	if err := w.d.Attach(tagged); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(tagged, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(below) })
	for _, at := range []string{tagged, below} {
		others, err := w.d.Others(at)
		if err != nil {
			t.Fatal(err)
		}
		if len(others) != 0 {
			t.Errorf("before: %v", others)
		}
	}
	program := stranger(t)
	for _, c := range []struct{ attached, seen string }{{below, below}, {tagged, below}, {tagged, tagged}} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: c.attached, Attach: ebpf.AttachCGroupInet4Connect, Program: program})
		if err != nil {
			t.Fatal(err)
		}
		others, err := w.d.Others(c.seen)
		if err != nil {
			t.Fatal(err)
		}
		if len(others) != 1 || others[0].Name != "stranger" || others[0].Hook != "connect4" || !strings.Contains(others[0].String(), "(stranger) at connect4") {
			t.Errorf("attached to %s, seen from %s: %v", c.attached, c.seen, others)
		}
		if problems, err := w.d.Verify(); err != nil || len(problems) != 0 {
			t.Errorf("ours: %v, %v", problems, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if others, err := w.d.Others(c.seen); err != nil || len(others) != 0 {
			t.Errorf("after: %v, %v", others, err)
		}
	}
}

// stranger is a program of somebody else's that lets everybody connect.
func stranger(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "stranger", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// TestOthersComeAndGo: programs that are attached while somebody looks do not keep him
// from seeing the rest.
func TestOthersComeAndGo(t *testing.T) {
	w := newWorld(t)
	tagged := w.workload("others")
	program := stranger(t)
	var over atomic.Bool
	var comes sync.WaitGroup
	comes.Go(func() {
		for !over.Load() {
			l, err := link.AttachCgroup(link.CgroupOptions{Path: tagged, Attach: ebpf.AttachCGroupInet4Connect, Program: program})
			if err == nil {
				err = l.Close()
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer comes.Wait()
	defer over.Store(true)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if _, err := w.d.Others(tagged); err != nil {
			t.Fatal(err)
		}
		if err := datapath.Guards(tagged); err != nil {
			t.Fatal(err)
		}
	}
}
