package confine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// ErrNoUser says that the account files have no such user. Accounts that only
// a directory service knows are not found: asking one needs libc.
var ErrNoUser = errors.New("no such user in /etc/passwd")

// A user is one line of passwd(5).
type user struct {
	name     string
	uid, gid int
	home     string
	shell    string
}

// maxAccountLine bounds one line of passwd(5) or group(5), whose members can
// be many.
const maxAccountLine = 1 << 20

// findUser is the first entry for which want holds. Lines that are no entries
// (comments, NIS "+" lines, broken ones) are passed over as libc does.
func findUser(r io.Reader, want func(*user) bool) (user, error) {
	s := accountLines(r)
	for s.Scan() {
		if u, ok := parseUser(s.Text()); ok && want(&u) {
			return u, nil
		}
	}
	if err := s.Err(); err != nil {
		return user{}, fmt.Errorf("/etc/passwd: %w", err)
	}
	return user{}, ErrNoUser
}

// parseUser reads "name:x:uid:gid:comment:home:shell".
func parseUser(line string) (user, bool) {
	f := strings.Split(line, ":")
	if len(f) != 7 || !isAccountName(f[0]) {
		return user{}, false
	}
	uid, ok := parseID(f[2])
	if !ok {
		return user{}, false
	}
	gid, ok := parseID(f[3])
	if !ok {
		return user{}, false
	}
	return user{name: f[0], uid: uid, gid: gid, home: f[5], shell: f[6]}, true
}

// findGroups are the ids of the groups that list the user as a member, with
// the primary one first, each once.
func findGroups(r io.Reader, u *user) ([]int, error) {
	groups := []int{u.gid}
	s := accountLines(r)
	for s.Scan() {
		f := strings.Split(s.Text(), ":")
		if len(f) != 4 || !isAccountName(f[0]) {
			continue
		}
		gid, ok := parseID(f[2])
		if ok && !slices.Contains(groups, gid) && slices.Contains(strings.Split(f[3], ","), u.name) {
			groups = append(groups, gid)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("/etc/group: %w", err)
	}
	return groups, nil
}

func accountLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxAccountLine)
	return s
}

func isAccountName(s string) bool {
	return s != "" && s[0] != '+' && s[0] != '-' && s[0] != '#'
}

// parseID reads a uid or gid; the largest value means "none" to the kernel.
func parseID(s string) (int, bool) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, false
	}
	return int(id), true
}

// loginPath is the PATH that login(1) gives: ENV_SUPATH for root, ENV_PATH for
// users, of login.defs(5).
func loginPath(etc fs.FS, uid int) string {
	key, path := "ENV_PATH", "/usr/local/bin:/usr/bin:/bin"
	if uid == 0 {
		key, path = "ENV_SUPATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	f, err := etc.Open("login.defs")
	if err != nil {
		return path // many hosts have none
	}
	defer f.Close()
	s := accountLines(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) == 2 && fields[0] == key {
			if p := strings.TrimPrefix(fields[1], "PATH="); p != "" {
				path = p
			}
		}
	}
	return path
}
