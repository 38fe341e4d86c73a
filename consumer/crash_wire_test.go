package consumer_test

import (
	"bufio"
	"bytes"
	"crypto/sha1" // the name Redis gives scripts, not a signature
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-go/penstock/stream/engine"
)

// label says what a command is, and whether it blocks; "" is the client library's own.
func (m *mortal) label(args []string) (label string, blocks bool) {
	switch name := strings.ToUpper(args[0]); name {
	case "HELLO", "AUTH", "SELECT":
		return "", false
	case "CLIENT":
		switch sub := strings.ToUpper(args[1]); sub {
		case "ID", "UNBLOCK", "KILL":
			return name + " " + sub, false
		}
		return "", false
	case "EVAL", "EVALSHA":
		label := m.names[args[1]]
		if label == "" {
			label = "unknown script"
		}
		if label += " " + m.short(args[3]); strings.HasPrefix(label, "move") || strings.HasPrefix(label, "redrive") {
			label += " to " + m.short(args[4])
		}
		return label, false
	case "XREADGROUP":
		at := slices.Index(args, "STREAMS")
		var keys []string
		for _, key := range args[at+1 : at+1+(len(args)-at-1)/2] {
			keys = append(keys, m.short(key))
		}
		if args[len(args)-1] != ">" {
			name += " own"
		}
		return name + " " + strings.Join(keys, "+"), slices.Contains(args, "BLOCK")
	default:
		return name, false
	}
}

// look says whether an answer tells of a job that moved.
func (m *mortal) look(args []string, v any, label string) bool {
	list, _ := v.([]any)
	n, _ := v.(int64)
	text, _ := v.(string)
	if _, failed := v.(error); failed {
		return false
	}
	switch name, _, _ := strings.Cut(label, " "); name {
	case "XREADGROUP":
		return len(list) > 0 && args[len(args)-1] == ">"
	case "settle":
		m.ended += int64(len(args) - 6 - len(list)) // name, script, count of keys, the key, group, delete
		return true
	case "complete":
		late, _, _ := engine.ReadCompleted(v)
		jobs, _ := strconv.ParseInt(args[2], 10, 64)
		if n = jobs - 3 - int64(len(late)); args[3+jobs+5] != "0" { // the stream, ids and marks; next, the stream and the locks
			locks, _ := strconv.ParseInt(args[3+jobs+5], 10, 64)
			n -= locks + 2
		}
		m.ended += n
		return n > 0
	case "promote":
		return list[0] != int64(0)
	case "sweep":
		lanes, _ := list[2].([]any)
		return slices.ContainsFunc(lanes, func(lane any) bool { l, _ := lane.([]any); return len(l) > 0 })
	case "publish", "schedule":
		return list[0] == int64(0)
	case "unique":
		return list[0] == int64(0) || list[0] == int64(5)
	case "start": // of a lock that ends no answer tells
		return false
	case "cancel":
		return list[0] == "done"
	case "retry", "purge", "free":
		return n > 0
	case "move", "redrive", "XADD":
		return text != ""
	case "trim":
		return n > 0
	case "open", "beat", "marks", "switches", "resume", "ZSCORE", "leave", "survey", "stale", "SADD", "TIME", "EXISTS", "CLIENT", "SMEMBERS", "XINFO", "XRANGE", "XREVRANGE", "HMGET", "HGETALL", "PING":
		return false
	}
	m.strange = append(m.strange, label)
	return false
}

// readFrame reads one value of Redis's protocol, version 2 or 3, and keeps its bytes. Maps come as lists.
func readFrame(r *bufio.Reader, raw *bytes.Buffer) (any, error) {
	line, err := r.ReadString('\n')
	raw.WriteString(line)
	if err != nil {
		return nil, err
	}
	kind, text := line[0], strings.TrimRight(line[1:], "\r\n")
	n, _ := strconv.Atoi(text)
	switch kind {
	case '-':
		return errors.New(text), nil
	case ':':
		return int64(n), nil
	case '$', '=', '!':
		if n < 0 {
			return nil, nil
		}
		if _, err := io.CopyN(raw, r, int64(n)+2); err != nil {
			return nil, err
		}
		return string(raw.Bytes()[raw.Len()-n-2 : raw.Len()-2]), nil
	case '%':
		n *= 2
		fallthrough
	case '*', '~', '>':
		list := make([]any, 0, max(n, 0))
		for range n {
			v, err := readFrame(r, raw)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	default: // +, _, #, the rest
		return text, nil
	}
}

func texts(v any) []string {
	list, _ := v.([]any)
	out := make([]string, len(list))
	for i := range list {
		out[i], _ = list[i].(string)
	}
	return out
}

// scriptNames maps what EVALSHA and EVAL are given to the names of the scripts.
func scriptNames() (names map[string]string, sources []string) {
	names = make(map[string]string)
	for _, script := range engine.Scripts() {
		name, source := script.Name(), script.Source()
		sum := sha1.Sum([]byte(source))
		names[hex.EncodeToString(sum[:])], names[source] = name, name
		sources = append(sources, source)
	}
	return names, sources
}
