package agent

import (
	"errors"
	"fmt"
	"net"
	"os"

	"sallyport/pkg/keeper/protocol"
)

// files are the descriptors of Start by their role.
type files struct {
	tcp      []net.Listener
	dns      []*net.UDPConn
	accepted *os.File
	askers   *os.File
	audit    *os.File
	admin    net.Listener
	metrics  net.Listener
	counters *os.File
}

// take takes what Start brings.
func (f *files) take(args *protocol.StartArgs, descriptors []*os.File) error {
	err := f.sort(args.Roles, descriptors)
	if !args.Redirected && (f.accepted == nil || f.askers == nil) || len(f.tcp) == 0 {
		err = errors.Join(err, errors.New("start: a descriptor is missing"))
	}
	return err
}

// sort sorts descriptors by role.
func (f *files) sort(roles []protocol.Role, descriptors []*os.File) error {
	var errs []error
	for i, file := range descriptors {
		var err error
		switch role := roles[i]; role {
		case protocol.RoleTCP:
			var l net.Listener
			l, err = listener(file)
			f.tcp = append(f.tcp, l)
		case protocol.RoleDNS:
			var c net.PacketConn
			c, err = net.FilePacketConn(file)
			file.Close()
			if err == nil {
				f.dns = append(f.dns, c.(*net.UDPConn))
			}
		case protocol.RoleAccepted:
			f.accepted = file
		case protocol.RoleAskers:
			f.askers = file
		case protocol.RoleAudit:
			f.audit = file
		case protocol.RoleAdmin:
			f.admin, err = listener(file)
		case protocol.RoleMetrics:
			f.metrics, err = listener(file)
		case protocol.RoleCounters:
			f.counters = file
		default:
			err = fmt.Errorf("unknown role %q", role)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func listener(f *os.File) (net.Listener, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the path is the keeper's
	}
	return l, err
}
