package config

import (
	_ "embed"
	"slices"
)

//go:generate go test -count=1 -run=^Test(Schema|Reference)IsCurrent$ . -args -update

// schemaJSON is generated from the document types of the test beside it; that
// test fails when it is out of date.
//
//go:embed schema.json
var schemaJSON []byte

// Schema gives the JSON Schema (draft 2020-12) of the configuration file, for
// editors. What it accepts Parse may still refuse.
func Schema() []byte { return slices.Clone(schemaJSON) }
