package guard

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Tables lists, sorted, the tables of the family inet in the network namespace
// ns (nil: the process's own) that are named prefix, or prefix with an
// underscore and a number behind it: those that a Guard may have left when its
// process was killed. To remove one, New it and Delete.
func Tables(ns *os.File, prefix string) ([]string, error) {
	conn, err := dial(ns)
	if err != nil {
		return nil, fmt.Errorf("guard: list tables: %w", err)
	}
	defer conn.nl.Close()
	answer, err := conn.ask(unix.NFT_MSG_GETTABLE, netlink.Dump)
	if err != nil {
		return nil, fmt.Errorf("guard: list tables: %w", err)
	}
	var names []string
	for _, m := range answer {
		list, err := payload(m)
		if err != nil {
			return nil, fmt.Errorf("guard: list tables: %w", err)
		}
		for _, a := range list {
			if a.Type == unix.NFTA_TABLE_NAME && ours(text(a.Data), prefix) {
				names = append(names, text(a.Data))
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

func ours(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || rest == "" {
		return ok
	}
	digits, ok := strings.CutPrefix(rest, "_")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}
