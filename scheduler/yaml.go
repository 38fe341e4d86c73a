package scheduler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"

	"go.yaml.in/yaml/v3"
)

// pairs are the keys and values of a mapping; what is no plain key, or comes twice, is a fault.
func (r *reader) pairs(node *yaml.Node, label string) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		seen := make(map[string]int)
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := follow(node.Content[i]), follow(node.Content[i+1])
			line, twice := seen[key.Value]
			switch {
			case key.Kind != yaml.ScalarNode:
				r.fault(key.Line, label, "", "", "a key must be a plain word")
			case key.ShortTag() == "!!merge":
				r.fault(key.Line, label, "<<", "", "mappings can't be merged here: write the keys out")
			case twice:
				r.fault(key.Line, label, key.Value, "", "is in line %d already", line)
			default:
				seen[key.Value] = key.Line
				if !yield(key, value) {
					return
				}
			}
		}
	}
}

// follow is what an alias stands for.
func follow(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

// spend counts a node that is written: aliases make much of a small file.
func (r *reader) spend(node *yaml.Node) error {
	r.nodes++
	if r.bytes += len(node.Value); r.nodes > maxNodes || r.bytes > maxText {
		return errors.New("must be smaller: the file has too many values or too long ones, with what its aliases stand for")
	}
	return nil
}

// json writes a node as JSON, its keys in order and its numbers digit by digit.
func (r *reader) json(b *bytes.Buffer, node *yaml.Node, depth int) error {
	node = follow(node)
	if err := r.spend(node); err != nil {
		return err
	}
	if depth == 0 {
		return fmt.Errorf("must be at most %d levels deep", maxDepth)
	}
	switch node.Kind {
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range node.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := r.json(b, item, depth-1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case yaml.MappingNode:
		return r.object(b, node, depth)
	case yaml.ScalarNode:
		return scalar(b, node)
	default:
		return errors.New("must be a value")
	}
}

func (r *reader) object(b *bytes.Buffer, node *yaml.Node, depth int) error {
	b.WriteByte('{')
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := follow(node.Content[i])
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
			return fmt.Errorf("must have plain keys (line %d)", key.Line)
		case seen[key.Value]:
			return fmt.Errorf("must have each key once: %s comes again in line %d", clip(key.Value), key.Line)
		}
		seen[key.Value] = true
		if err := r.spend(key); err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		if err := text(b, key.Value); err != nil {
			return err
		}
		b.WriteByte(':')
		if err := r.json(b, node.Content[i+1], depth-1); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func scalar(b *bytes.Buffer, node *yaml.Node) error {
	switch tag := node.ShortTag(); tag {
	case "!!str", "!!timestamp":
		return text(b, node.Value)
	case "!!null":
		b.WriteString("null")
		return nil
	case "!!bool":
		var v bool
		if err := node.Decode(&v); err != nil {
			return fmt.Errorf("must be true or false, not %s", clip(node.Value))
		}
		fmt.Fprint(b, v)
		return nil
	case "!!int", "!!float":
		return number(b, node)
	default:
		return fmt.Errorf("must not have the tag %s (line %d)", clip(tag), node.Line)
	}
}

// number writes what is a number in JSON too as it stands there.
func number(b *bytes.Buffer, node *yaml.Node) error {
	if json.Valid([]byte(node.Value)) && !strings.ContainsAny(node.Value, `"{[`) {
		b.WriteString(node.Value)
		return nil
	}
	var v any
	if err := node.Decode(&v); err != nil {
		return fmt.Errorf("must be a number, not %s", clip(node.Value))
	}
	if f, ok := v.(float64); ok && (math.IsInf(f, 0) || math.IsNaN(f)) {
		return fmt.Errorf("must be a number that JSON has, not %s", clip(node.Value))
	}
	out, err := json.Marshal(v)
	b.Write(out)
	return err
}

// text writes a string, without the escapes that only HTML needs.
func text(b *bytes.Buffer, s string) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // a line end
	return nil
}
