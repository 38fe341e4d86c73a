package consumer

import (
	"errors"
	"fmt"
)

// rawEntry is a stream entry as Redis sent it: the order of its fields tells ours from foreign ones.
type rawEntry struct {
	id     string
	values []string
	gone   bool // deleted while pending: history reads send no fields
}

// size is about how many bytes the entry has.
func (e rawEntry) size() (n int) {
	for _, v := range e.values {
		n += len(v)
	}
	return n
}

// errAnswer is wrapped by what says that an answer has come whole and can't be understood.
var errAnswer = errors.New("the answer to XREADGROUP cannot be understood")

// parseRead decodes XREADGROUP's answer: per key, its entries, in the order asked for.
func parseRead(v any) (map[string][]rawEntry, error) {
	read := make(map[string][]rawEntry)
	switch reply := v.(type) {
	case nil:
	case map[any]any: // RESP3
		for key, list := range reply {
			if err := addEntries(read, key, list); err != nil {
				return nil, err
			}
		}
	case []any: // RESP2
		for _, item := range reply {
			pair, _ := item.([]any)
			if len(pair) != 2 {
				return nil, fmt.Errorf("%w: unexpected %T", errAnswer, item)
			}
			if err := addEntries(read, pair[0], pair[1]); err != nil {
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("%w: unexpected %T", errAnswer, v)
	}
	return read, nil
}

func addEntries(read map[string][]rawEntry, key, list any) error {
	name, _ := key.(string)
	items, ok := list.([]any)
	if !ok {
		return fmt.Errorf("%w: unexpected %T", errAnswer, list)
	}
	entries := make([]rawEntry, len(items))
	for i, item := range items {
		pair, _ := item.([]any)
		if len(pair) != 2 {
			return fmt.Errorf("%w: unexpected entry %T", errAnswer, item)
		}
		entries[i].id, _ = pair[0].(string)
		fields, ok := pair[1].([]any)
		if !ok {
			entries[i].gone = true
			continue
		}
		entries[i].values = make([]string, len(fields))
		for n, f := range fields {
			entries[i].values[n], _ = f.(string)
		}
	}
	read[name] = entries
	return nil
}
