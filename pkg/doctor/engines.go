package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// An engineInfo is what Docker and Podman tell of themselves (GET /info).
type engineInfo struct {
	CgroupDriver, CgroupVersion, ServerVersion, Name string
}

// containers looks for the engines of root that describe containers.
func containers(ctx context.Context, sockets []string) []Result {
	var list []Result
	for _, s := range sockets {
		err := dialable(ctx, s)
		if errors.Is(err, os.ErrPermission) {
			// Who may not connect is told nothing else: the daemon may.
			list = append(list, ok("engine at "+s))
			continue
		}
		if err != nil {
			continue
		}
		list = append(list, judgeEngine(ctx, s))
	}
	if len(list) == 0 {
		return []Result{skipped("no engine at " + strings.Join(sockets, " or ") + ": no workload matches by container")}
	}
	return list
}

// judgeEngine asks one engine which cgroups its containers get.
func judgeEngine(ctx context.Context, socket string) Result {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	var info engineInfo
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/info", nil)
	if err == nil {
		var r *http.Response
		if r, err = client.Do(request); err == nil {
			defer r.Body.Close()
			err = json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&info)
		}
	}
	if err != nil {
		return warned("engine at "+socket+" does not say how it is set up: "+err.Error(), "start it again, or tag its containers by cgroup")
	}
	detail := fmt.Sprintf("engine at %s: version %s, cgroup driver %s, cgroup v%s", socket, info.ServerVersion, info.CgroupDriver, info.CgroupVersion)
	switch {
	case info.CgroupVersion == "1":
		return failed(detail, "boot with systemd.unified_cgroup_hierarchy=1: containers in cgroup v1 cannot be tagged")
	case info.CgroupDriver == "cgroupfs":
		return warned(detail, "--cgroup-parent wants a path there, /mcp.slice; exec-opts native.cgroupdriver=systemd makes mcp.slice the unit")
	}
	return ok(detail)
}
