// Wrapper confines itself as its first argument says, in JSON, and becomes the
// command. Tests link it with the package's entry.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"sallyport/pkg/confine"
)

func main() {
	runtime.LockOSThread()
	var s confine.Spec
	if err := json.Unmarshal([]byte(os.Args[1]), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	s.Env = os.Environ()
	err := confine.Exec(&s)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(confine.ExitCode(err))
}
