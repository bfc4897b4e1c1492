package agent

import "sallyport/pkg/metrics"

// HostFigures gives what the keeper knows of the host.
func (s *snapshots) HostFigures() (metrics.HostFigures, error) {
	r, err := s.get()
	if err != nil {
		return metrics.HostFigures{}, err
	}
	f := metrics.HostFigures{ClockForward: r.Host.ClockForward, ClockBack: r.Host.ClockBack}
	for _, c := range r.Host.Certificates {
		f.Certificates = append(f.Certificates, metrics.Certificate{Name: c.Name, NotAfter: c.NotAfter})
	}
	return f, nil
}
