package group

import (
	"fmt"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/mls"
	"chancery/mls/tree"
)

const (
	resortsName = "lastresort"
	// A KeyPackage of last resort is replaced when it was used, but not within a
	// day of the last time, and after four weeks in any case. So never more than
	// 84 are alive.
	resortRest  = 24 * time.Hour
	resortAge   = 28 * 24 * time.Hour
	keptResorts = 100
)

// resort is a KeyPackage of last resort that the device has published.
type resort struct {
	_        struct{} `cbor:",toarray"`
	Ref      []byte
	Made     int64 // seconds since 1970
	NotAfter int64
}

// resorts returns the device's KeyPackages of last resort, oldest first.
func (s *Groups) resorts() ([]resort, error) {
	raw, err := s.get(resortsName)
	if err != nil || raw == nil {
		return nil, err
	}
	var out []resort
	if err := codec.Decode(raw, &out); err != nil {
		return nil, fmt.Errorf("couldn't read the list of KeyPackages of last resort: %w", err)
	}
	return out, nil
}

// LastResort implements client.Groups.
func (s *Groups) LastResort(held client.LastResort) ([]byte, error) {
	list, err := s.resorts()
	if err != nil {
		return nil, err
	}
	now := s.now()
	age := resortAge
	if n := len(list); n > 0 {
		age = now.Sub(time.Unix(list[n-1].Made, 0))
	}
	switch {
	case held == client.LastResortMissing, held == client.LastResortUsed && age >= resortRest, age >= resortAge:
	default:
		return nil, nil
	}
	own, err := s.generate(tree.Extension{Type: mls.ExtensionLastResort})
	if err != nil {
		return nil, err
	}
	message := own.Message()
	list = append(list, resort{Ref: s.keepPackage(own), Made: now.Unix(), NotAfter: now.Add(lifetime).Unix()})
	kept := list[:0]
	for i, r := range list {
		if r.NotAfter < now.Unix() || len(list)-i > keptResorts {
			s.put(packageName(r.Ref), nil)
			continue
		}
		kept = append(kept, r)
	}
	s.put(resortsName, codec.Encode(kept))
	return message, nil
}
