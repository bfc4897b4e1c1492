package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// tryGit: git clone, fetch and push over https, with a pack that is too large
// for one request with a length, at nginx with git's own server behind it.
func (s *street) tryGit() {
	dir := s.nginx
	// 12 MB of what does not compress, and many small files.
	prepare := fmt.Sprintf(`set -e; cd %s/git; git init -q -b main work; cd work; git config user.name t; git config user.email t@example.com; git config commit.gpgsign false
for i in 1 2 3 4; do cp %s/root/stream/3000000 big$i; echo $i >>big$i; head -c 100 big$i | tac >small$i; done
mkdir many; for i in $(seq 500); do echo "file $i" >many/$i; done; git add .; git commit -q -m first
cd ..; git clone -q --bare work repo.git; git -C repo.git config http.receivepack true; rm -rf work`, dir, dir)
	if out, err := exec.Command("sh", "-c", prepare).CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	script := fmt.Sprintf(`set -e; cd /srv; url=https://git.example.com:%s/repo.git
export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.com GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.com
git clone -q $url one; cmp one/big4 <(cat stream/3000000; echo 4); ls one/many | wc -l
git -c http.version=HTTP/1.1 clone -q --depth 1 $url shallow
cd one; cat big1 big2 >big5; head -c 5000000 /dev/urandom >random; git add .; git commit -q -m second
git -c http.postBuffer=65536 push -q origin main
for i in $(seq 200); do echo "change $i" >many/$i; done; git commit -q -a -m third; git push -q origin main:side
cd ../shallow; git pull -q --unshallow; git fetch -q origin side; git rev-list --count FETCH_HEAD; cmp random ../one/random
git fsck --strict --no-dangling`, portGit)
	r := s.run(s.command(s.execBy("bash", "-c", script)...))
	if r.code != 0 || strings.Join(strings.Fields(r.stdout), " ") != "500 3" {
		s.t.Errorf("git: %v", r)
	}
	if out, err := exec.Command("git", "-c", "safe.directory=*", "-C", dir+"/git/repo.git", "fsck", "--strict").CombinedOutput(); err != nil {
		s.t.Errorf("the repository is damaged: %v: %s", err, out)
	}
	eventually(s.t, 10*time.Second, "all bytes are in the audit", func() bool {
		var fetched, pushed int64
		for _, e := range s.exchanges("/repo.git/") {
			if e.HTTP.Status != 200 || e.Verdict != "allow" {
				s.t.Fatalf("audit: %+v", e)
			}
			switch e.HTTP.Path {
			case "/repo.git/git-upload-pack":
				fetched += e.HTTP.ResponseBytes
			case "/repo.git/git-receive-pack":
				pushed += e.HTTP.RequestBytes
			}
		}
		return fetched >= 6_000_000 && pushed >= 5_000_000
	})
}
