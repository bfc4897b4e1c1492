package stage

import (
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/auth"
	"sallyport/pkg/stage/bodylog"
	"sallyport/pkg/stage/headers"
)

// authStage appends the stage that asks callers for a secret.
func authStage(stages []exchange.Stage, r *config.Rule, secrets Secrets) ([]exchange.Stage, error) {
	if r.Auth == nil {
		return stages, nil
	}
	file, found := secrets[r.Auth.SecretFile]
	if !found {
		return nil, fmt.Errorf("auth.secret_file %s was not read", r.Auth.SecretFile)
	}
	s, err := auth.New(r.Auth, file)
	if err != nil {
		return nil, err
	}
	return append(stages, s), nil
}

// headerStage appends the stage that changes fields.
func headerStage(stages []exchange.Stage, r *config.Rule) ([]exchange.Stage, error) {
	if r.Headers == nil {
		return stages, nil
	}
	s, err := headers.New(r.Headers)
	if err != nil {
		return nil, err
	}
	return append(stages, s), nil
}

// maxRecorded bounds what the bodies that are being recorded may hold together.
// Beyond it they are cut.
const maxRecorded = 64 << 20

// records is what the stages that record bodies share.
type records struct{ budget *bodylog.Budget }

func newRecords() *records { return &records{budget: bodylog.NewBudget(maxRecorded)} }

// stages appends the stage that records bodies and fields.
func (s *records) stages(stages []exchange.Stage, r *config.Rule, f *filters) ([]exchange.Stage, error) {
	if r.Log == nil {
		return stages, nil
	}
	detectors, err := f.detectors()
	if err != nil {
		return nil, err
	}
	stage, err := bodylog.New(r.Log, bodylog.Options{Secrets: detectors, Budget: s.budget})
	if err != nil {
		return nil, err
	}
	return append(stages, stage), nil
}

// resources tells how much is held for records.
func (s *records) resources() []Resource {
	used, capacity := s.budget.Figures()
	return []Resource{{Name: "recorded_bytes", Entries: uint64(max(used, 0)), Capacity: uint64(capacity)}}
}
