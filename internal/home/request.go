package home

import (
	"encoding/json"
	"fmt"
	"os"

	"chancery/codec"
	"chancery/request"
)

// Request is what a requester hands to approvers and to the opener as a file,
// apart from the server, which must not see terms or purpose.
type Request struct {
	Request codec.Hash `json:"request"`
	Matter  codec.ID   `json:"matter"`
	Details []byte     `json:"details"` // encoded request.Details
}

// Save writes a request file, whole or not at all.
func (r *Request) Save(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("couldn't encode the request file: %w", err)
	}
	return WriteFile(path, append(data, '\n'), 0o600)
}

// ReadRequest reads a request file.
func ReadRequest(path string) (*Request, *request.Details, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't read the request file: %w", err)
	}
	var f Request
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, fmt.Errorf("couldn't read the request file %s: %w", path, err)
	}
	d, err := request.ParseDetails(f.Details)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't read the request file %s: %w", path, err)
	}
	return &f, d, nil
}
