package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const passwd = `root:x:0:0:root:/root:/bin/bash
# comment
+nis
broken:line
alice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh
alias:x:1000:1001::/home/alias:/bin/sh
noshell:x:1001:1001::/home/noshell:
4242:x:1005:1005::/home/digits:/bin/sh
none:x:4294967295:0::/:/bin/sh
`

const group = `root:x:0:
alice:x:1000:
docker:x:998:bob,alice
dup:x:998:alice
wheel:x:10:alice,root
+nis
bad:x:no:alice
`

// host is a Host with the given environment, run as uid.
func host(uid int, env map[string]string, sudo ...string) Host {
	return Host{
		UID: uid, GID: uid, Groups: []int{uid},
		Getenv: func(k string) string { return env[k] },
		Etc: fstest.MapFS{
			"passwd":     {Data: []byte(passwd)},
			"group":      {Data: []byte(group)},
			"login.defs": {Data: []byte("# ENV_PATH PATH=/wrong\nENV_SUPATH\tPATH=/super\nENV_PATH PATH=/login/bin:/bin\n")},
		},
		SudoEnviron: func() ([]string, bool) { return sudo, sudo != nil },
	}
}

func sudo(uid, gid, name string) map[string]string {
	return map[string]string{"SUDO_UID": uid, "SUDO_GID": gid, "SUDO_USER": name, "PATH": "/secure"}
}

func TestCallingUser(t *testing.T) {
	alice := Caller{UID: 1000, GID: 1000, Groups: []int{1000, 998, 10}, Name: "alice", Home: "/home/alice", Shell: "/bin/zsh", Path: "/login/bin:/bin", Confined: true}
	with := func(c Caller, change func(*Caller)) Caller { change(&c); return c }
	root := Caller{Groups: []int{0}, Name: "root", Path: "/secure"}
	tests := []struct {
		name    string
		host    Host
		user    string
		want    Caller
		wantErr string
	}{
		{name: "sudo", host: host(0, sudo("1000", "1000", "alice"), "TERM=x", "PATH=/alice/bin:/bin", "PATH=/second"),
			want: with(alice, func(c *Caller) { c.Path = "/alice/bin:/bin" })},
		{name: "sudo is gone", host: host(0, sudo("1000", "1000", "alice")), want: alice},
		{name: "sudo without PATH", host: host(0, sudo("1000", "1000", "alice"), "X=1", "PATH="), want: alice},
		{name: "newgrp before sudo", host: host(0, sudo("1000", "998", "alice")), want: with(alice, func(c *Caller) { c.GID = 998 })},
		{name: "second name of a uid", host: host(0, sudo("1000", "1001", "alias")),
			want: Caller{UID: 1000, GID: 1001, Groups: []int{1001}, Name: "alias", Home: "/home/alias", Shell: "/bin/sh", Path: "/login/bin:/bin", Confined: true}},
		{name: "root calls sudo", host: host(0, sudo("0", "0", "root")), want: root},
		{name: "root", host: host(0, map[string]string{"PATH": "/secure"}), want: root},
		{name: "user", host: host(1000, map[string]string{"PATH": "/p", "HOME": "/h", "SHELL": "/s"}),
			want: Caller{UID: 1000, GID: 1000, Groups: []int{1000}, Name: "alice", Home: "/h", Shell: "/s", Path: "/p", Confined: true}},
		{name: "a user believes no variables", host: host(1001, sudo("0", "0", "root")),
			want: Caller{UID: 1001, GID: 1001, Groups: []int{1001}, Name: "noshell", Path: "/secure", Confined: true}},
		{name: "user without entry", host: host(5000, nil), want: Caller{UID: 5000, GID: 5000, Groups: []int{5000}, Confined: true}},
		{name: "--user", host: host(0, sudo("1001", "1001", "noshell"), "PATH=/x"), user: "alice", want: alice},
		{name: "--user number", host: host(0, nil), user: "1000", want: alice},
		{name: "--user name of digits", host: host(0, nil), user: "4242",
			want: Caller{UID: 1005, GID: 1005, Groups: []int{1005}, Name: "4242", Home: "/home/digits", Shell: "/bin/sh", Path: "/login/bin:/bin", Confined: true}},
		{name: "--user root", host: host(0, nil), user: "root",
			want: Caller{Groups: []int{0, 10}, Name: "root", Home: "/root", Shell: "/bin/bash", Path: "/super"}},
		{name: "--user absent", host: host(0, nil), user: "bob", wantErr: "no such user"},
		{name: "--user number absent", host: host(0, nil), user: "77", wantErr: "no such user"},
		{name: "--user -1", host: host(0, nil), user: "4294967295", wantErr: "no such user"},
		{name: "--user of another", host: host(1000, nil), user: "root", wantErr: "only root"},
		{name: "--user of oneself", host: host(1000, nil), user: "alice", want: Caller{UID: 1000, GID: 1000, Groups: []int{1000}, Name: "alice", Confined: true}},
		{name: "SUDO_UID is no number", host: host(0, sudo("x", "1000", "alice")), wantErr: "not a user id"},
		{name: "SUDO_UID is negative", host: host(0, sudo("-1", "1000", "alice")), wantErr: "not a user id"},
		{name: "SUDO_UID of another", host: host(0, sudo("1001", "1001", "alice")), wantErr: "no such user"},
		{name: "SUDO_USER absent", host: host(0, sudo("1000", "1000", "")), wantErr: "no such user"},
		{name: "SUDO_GID is no number", host: host(0, sudo("1000", "", "alice")), wantErr: "not a group id"},
		{name: "SUDO_GID of another", host: host(0, sudo("1000", "0", "alice")), wantErr: "not a group of alice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CallingUser(tt.host, tt.user)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(Caller{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEnviron(t *testing.T) {
	c, err := CallingUser(host(0, sudo("1000", "1000", "alice"), "PATH=/alice"), "")
	if err != nil {
		t.Fatal(err)
	}
	got := c.Environ([]string{"PATH=/secure", "HOME=/root", "LANG=C", "USER=root", "MAIL=/var/mail/root", "SUDO_UID=1000", "SUDO_COMMAND=x", "TOKEN=a=b"})
	want := []string{"LANG=C", "MAIL=/var/mail/alice", "TOKEN=a=b", "PATH=/alice", "HOME=/home/alice", "USER=alice", "LOGNAME=alice", "SHELL=/bin/zsh"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c, err = CallingUser(host(0, nil), "")
	if err != nil {
		t.Fatal(err)
	}
	same := []string{"PATH=/p", "SUDO_UID=0"}
	if diff := cmp.Diff(same, c.Environ(same)); diff != "" {
		t.Error(diff)
	}
	c, err = CallingUser(host(0, nil), "noshell")
	if err != nil {
		t.Fatal(err)
	}
	if env := strings.Join(c.Environ(nil), " "); !strings.Contains(env, "SHELL=/bin/sh") {
		t.Error(env)
	}
}

// TestUnderSudo: the real sudo, of a user with a PATH of its own, and a shell
// in between. nobody needs leave to call it, which a sudoers file of our own
// gives in a mount namespace of our own.
func TestUnderSudo(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("sudo"); err != nil {
		t.Skip("sudo is not installed")
	}
	dir := sharedDir(t)
	rules := filepath.Join(dir, "sudoers")
	if err := os.WriteFile(rules, []byte("Defaults env_reset,use_pty,!requiretty,secure_path=/usr/sbin:/usr/bin:/sbin:/bin\nDefaults!ALL !authenticate\nnobody ALL=(ALL) NOPASSWD: ALL\nroot ALL=(ALL) NOPASSWD: ALL\n"), 0o440); err != nil {
		t.Fatal(err)
	}
	inner := func(argv string) *exec.Cmd {
		script := fmt.Sprintf(`mount --bind %s /etc/sudoers && exec setpriv --reuid=65534 --regid=65534 --clear-groups env -i PATH=/nobody/own:/usr/bin:/bin TERM=x sudo -n %s`, rules, argv)
		return exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script)
	}
	for _, argv := range []string{
		self + " " + probeArg + " caller",
		"sh -c '" + self + " " + probeArg + " caller; true'",
	} {
		var got Caller
		if err := json.Unmarshal([]byte(succeed(t, inner(argv))), &got); err != nil {
			t.Fatal(err)
		}
		if got.Name != "nobody" || got.UID != nobody || got.Path != "/nobody/own:/usr/bin:/bin" || !got.Confined {
			t.Errorf("%s: %+v", argv, got)
		}
	}
	// A process that is only called sudo is not believed.
	fake := filepath.Join(dir, "sudo")
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fake, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(fake, probeArg, "spawn", self, probeArg, "caller")
	cmd.Env = []string{"PATH=/fake/path", "SUDO_UID=65534", "SUDO_GID=65534", "SUDO_USER=nobody"}
	var got Caller
	if err := json.Unmarshal([]byte(succeed(t, cmd)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "nobody" || strings.Contains(got.Path, "/fake") {
		t.Errorf("under a false sudo: %+v", got)
	}
}

func TestThisHost(t *testing.T) {
	h, err := ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	h.Getenv = func(string) string { return "" }
	c, err := CallingUser(h, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.UID != os.Geteuid() {
		t.Errorf("%+v", c)
	}
}

func FuzzFindUser(f *testing.F) {
	f.Add(passwd, group)
	f.Add("ENV_PATH PATH=\nENV_PATH x", "")
	f.Add("a:b:1:1:::\n", "g:x:1:a,a\n")
	f.Fuzz(func(t *testing.T, p, g string) {
		u, err := findUser(strings.NewReader(p), func(*user) bool { return true })
		if err != nil {
			return
		}
		if u.name == "" || u.uid < 0 || u.gid < 0 || u.uid == 1<<32-1 {
			t.Fatalf("%+v", u)
		}
		if path := loginPath(fstest.MapFS{"login.defs": {Data: []byte(p)}}, 1); path == "" {
			t.Error("an empty PATH")
		}
		groups, err := findGroups(strings.NewReader(g), &u)
		if err == nil && (len(groups) == 0 || groups[0] != u.gid) {
			t.Errorf("%v", groups)
		}
	})
}

func TestLongAccountFile(t *testing.T) {
	_, err := findUser(strings.NewReader(strings.Repeat("x", maxAccountLine+1)), func(*user) bool { return true })
	if err == nil || errors.Is(err, ErrNoUser) {
		t.Errorf("a line over the bound: %v", err)
	}
}
