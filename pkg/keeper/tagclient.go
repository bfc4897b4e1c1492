package keeper

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/wire"
	"sallyport/pkg/tag"
)

// AskTag has the daemon put a tag in force. Errors wrap ErrNoDaemon where none
// answers.
func AskTag(runtimeDir string, args *TagArgs) (*TagResult, error) {
	var files []*os.File
	if args.Kind == tag.KindProcess {
		fd, err := unix.PidfdOpen(args.PID, 0)
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", args.PID, err)
		}
		f := os.NewFile(uintptr(fd), "pidfd")
		defer f.Close()
		files = append(files, f)
	}
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: ExecSocket(runtimeDir), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDaemon, err)
	}
	defer c.Close()
	conn := wire.FromUnix(c)
	if _, err := expect(conn, methodHello); err != nil {
		return nil, err
	}
	if err := conn.Send(&wire.Message{Method: methodTag, Files: files}, args); err != nil {
		return nil, err
	}
	m, err := expect(conn, methodTagged)
	if err != nil {
		return nil, err
	}
	var out TagResult
	return &out, m.Decode(&out)
}
