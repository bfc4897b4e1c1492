package protocol

import "time"

// A Certificate is one of our authority's, by its name in metrics: root, issuing.
type Certificate struct {
	Name      string    `json:"name"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Host is what the keeper knows of the host besides the kernel's figures.
type Host struct {
	Certificates []Certificate `json:"certificates"`
	// ClockForward and ClockBack count how often somebody set the host's clock.
	ClockForward uint64 `json:"clock_forward"`
	ClockBack    uint64 `json:"clock_back"`
}
