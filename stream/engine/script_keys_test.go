package engine_test

import (
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/yuin/gopher-lua/ast"
	"github.com/yuin/gopher-lua/parse"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// keyAt is which argument of a command that scripts use is its key; 0: it has
// none. One with several keys needs a check of its own before it is added here.
var keyAt = map[string]int{
	"PERSIST": 1, "SADD": 1, "SCARD": 1, "SPOP": 1, "SREM": 1,
	"DEL": 1, "EXISTS": 1, "GET": 1, "GETRANGE": 1, "HDEL": 1, "HEXISTS": 1, "HGET": 1, "HGETALL": 1, "HLEN": 1, "HMGET": 1, "HSCAN": 1, "HSET": 1, "PEXPIRE": 1, "PTTL": 1,
	"PUBLISH": 0, "PUBSUB": 0, "SET": 1, "SETRANGE": 1, "TIME": 0, "TYPE": 1, "XACK": 1, "XADD": 1, "XAUTOCLAIM": 1, "XCLAIM": 1, "XDEL": 1, "XGROUP": 2,
	"XINFO": 2, "XLEN": 1, "XPENDING": 1, "XRANGE": 1, "XREVRANGE": 1, "XTRIM": 1, "ZADD": 1, "ZCARD": 1, "ZRANGE": 1,
	"ZRANGEBYSCORE": 1, "ZREM": 1, "ZSCORE": 1,
}

// TestScriptKeysAreDeclared reads each script: the key of every command in it is
// one of KEYS. A name that is put together inside fails in the middle of a script
// while its slot migrates, and the job is gone.
func TestScriptKeysAreDeclared(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(engine.Sources, "lua/*.lua")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		source := engine.Load(strings.TrimSuffix(strings.TrimPrefix(file, "lua/"), ".lua")).Source() // with its part
		for _, fault := range undeclaredKeys(t, source) {
			t.Errorf("%s:%s", file, fault)
		}
	}
	for _, script := range engine.Scripts() { // some are put together of several files
		for _, fault := range undeclaredKeys(t, script.Source()) {
			t.Errorf("%s:%s", script.Name(), fault)
		}
	}
	for source, found := range map[string]bool{
		`return redis.call('GET', KEYS[1])`:                                                     false,
		`for _, key in ipairs(KEYS) do redis.pcall('XLEN', key) end`:                            false,
		`local function f(key) return redis.call('XINFO', 'GROUPS', key) end f(KEYS[1])`:        false,
		`local a = {'XCLAIM', KEYS[1], 'g'} a[#a + 1] = 'me' return redis.call(unpack(a))`:      false,
		`return redis.call('GET', KEYS[1] .. ':jobs')`:                                          true,
		`return redis.call('GET', ARGV[1])`:                                                     true,
		`return redis.call('GET', '{orders}:config')`:                                           true,
		`local key = KEYS[1] .. ':jobs' return redis.pcall('GET', key)`:                         true,
		`for _, key in ipairs(ARGV) do redis.call('XLEN', key) end`:                             true,
		`for _, key in ipairs(KEYS) do key = key .. ':jobs' redis.call('XLEN', key) end`:        true,
		`local function f(key) return redis.call('GET', key) end f(KEYS[1]) f(ARGV[1])`:         true,
		`local function f(key) return redis.call('GET', key) end local g = f g(ARGV[1])`:        true,
		`local a = {'XCLAIM', ARGV[1], 'g'} return redis.call(unpack(a))`:                       true,
		`local a = {'XCLAIM', KEYS[1], 'g'} a[2] = ARGV[1] return redis.call(unpack(a))`:        true,
		`local call = redis.call return call('GET', ARGV[1])`:                                   true,
		`KEYS[1] = KEYS[1] .. ':jobs' return redis.call('GET', KEYS[1])`:                        true,
		`return redis.call(ARGV[1], KEYS[1])`:                                                   true,
		`return redis.call('RENAME', KEYS[1], KEYS[1] .. ':old')`:                               true,
		`local function f() return {redis.call('HGET', 'x' .. KEYS[1], 'a')} end return f()[1]`: true,
	} {
		if faults := undeclaredKeys(t, source); (len(faults) > 0) != found {
			t.Errorf("%s\nfaults %q, want some: %v", source, faults, found)
		}
	}
}

// TestScriptKeysAreEnough runs each script as a user who may touch the call's
// keys and no others: Redis itself says what a script touches.
func TestScriptKeysAreEnough(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	admin := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			user := strings.ReplaceAll(name, " ", "-")
			w := newWorld(t, admin, "orders-"+user)
			c := sc.prepare(w)
			rule := []any{"ACL", "SETUSER", user, "reset", "on", ">secret", "+@all", "&*"}
			for _, key := range c.Keys {
				rule = append(rule, "~"+key)
			}
			if err := admin.Do(t.Context(), rule...).Err(); err != nil {
				t.Fatal(err)
			}
			rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: user, Password: "secret"})
			if err := rdb.Get(t.Context(), "another").Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
				t.Fatalf("a key that is not the call's: %v, want NOPERM: this proves nothing", err)
			}
			if v, err := c.Run(t.Context(), rdb); err != nil || !sc.first(v) {
				t.Errorf("answered %v, %v", v, err)
			}
			log, err := admin.ACLLog(t.Context(), 100).Result() // a script may swallow what it is refused
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range log {
				if e.Username == user && e.Object != "another" {
					t.Errorf("it touched %s, which is not one of its keys %q", e.Object, c.Keys)
				}
			}
		})
	}
}

// undeclaredKeys returns a line for each command of a script whose key is not plainly one of KEYS:
// KEYS[…], the variable of a loop over KEYS, or a parameter that is always given one of these.
func undeclaredKeys(t *testing.T, source string) []string {
	t.Helper()
	chunk, err := parse.Parse(strings.NewReader(source), "script")
	if err != nil {
		t.Fatal(err)
	}
	s := luaScript{
		bound: make(map[string]int), keys: make(map[string]bool), idents: make(map[string]int),
		params: make(map[string][]param), calls: make(map[string][]*ast.FuncCallExpr), tables: make(map[string]*ast.TableExpr),
	}
	walk(reflect.ValueOf(chunk), s.visit)
	s.findKeys()
	for i := range s.sent {
		s.check(s.sent[i])
	}
	if n := len(s.sent) + s.replies; s.idents["redis"] != n {
		s.fault(0, "redis is used %d times, of which only %d are plain calls", s.idents["redis"], n)
	}
	return s.faults
}

type param struct {
	function string
	at       int
}

type luaScript struct {
	bound   map[string]int                 // how often a name is bound
	loops   []string                       // names bound to each of KEYS
	params  map[string][]param             // names that are parameters of local functions
	calls   map[string][]*ast.FuncCallExpr // of local functions, by name
	tables  map[string]*ast.TableExpr      // what a name begins as
	idents  map[string]int                 // how often a name is used
	keys    map[string]bool                // names that are always one of KEYS
	sent    []*ast.FuncCallExpr            // redis.call and redis.pcall
	replies int                            // redis.error_reply
	faults  []string
}

func (s *luaScript) fault(line int, format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf("%d: %s", line, fmt.Sprintf(format, args...)))
}

func (s *luaScript) visit(node any) {
	switch n := node.(type) {
	case *ast.IdentExpr:
		s.idents[n.Value]++
	case *ast.LocalAssignStmt:
		for i, name := range n.Names {
			s.bound[name]++
			if i >= len(n.Exprs) {
				continue
			}
			switch e := n.Exprs[i].(type) {
			case *ast.FunctionExpr:
				for at, p := range e.ParList.Names {
					s.params[p] = append(s.params[p], param{name, at})
				}
			case *ast.TableExpr:
				s.tables[name] = e
			}
		}
	case *ast.AssignStmt:
		for _, left := range n.Lhs {
			s.assigned(left)
		}
	case *ast.FunctionExpr:
		for _, p := range n.ParList.Names {
			s.bound[p]++
		}
	case *ast.NumberForStmt:
		s.bound[n.Name]++
	case *ast.GenericForStmt:
		for _, name := range n.Names {
			s.bound[name]++
		}
		if over, ok := n.Exprs[0].(*ast.FuncCallExpr); ok && len(n.Names) == 2 && isName(over.Func, "ipairs") && isName(over.Args[0], "KEYS") {
			s.loops = append(s.loops, n.Names[1])
		}
	case *ast.FuncCallExpr:
		if f, ok := n.Func.(*ast.IdentExpr); ok {
			s.calls[f.Value] = append(s.calls[f.Value], n)
		}
		if f, ok := n.Func.(*ast.AttrGetExpr); ok && isName(f.Object, "redis") {
			switch text(f.Key) {
			case "call", "pcall":
				s.sent = append(s.sent, n)
			case "error_reply":
				s.replies++
			}
		}
	}
}

// assigned notes what is written to: KEYS is not, and what is unpacked into a command only grows.
func (s *luaScript) assigned(left ast.Expr) {
	switch left := left.(type) {
	case *ast.IdentExpr:
		s.bound[left.Value]++
	case *ast.AttrGetExpr:
		object, _ := left.Object.(*ast.IdentExpr)
		if object == nil {
			return
		}
		_, grows := left.Key.(*ast.ArithmeticOpExpr)
		if object.Value == "KEYS" {
			s.fault(left.Line(), "KEYS is written to")
		} else if !grows {
			s.bound[object.Value]++
		}
	}
}

// findKeys finds the names that are always one of KEYS: it takes all for such
// that may be, and drops those that are not until none is left to drop.
func (s *luaScript) findKeys() {
	for name, n := range s.bound {
		loops := 0
		for _, loop := range s.loops {
			if loop == name {
				loops++
			}
		}
		s.keys[name] = n == loops+len(s.params[name])
	}
	for dropped := true; dropped; {
		dropped = false
		for name := range s.keys {
			if s.keys[name] && slices.ContainsFunc(s.params[name], func(p param) bool { return !s.alwaysKey(p) }) {
				s.keys[name], dropped = false, true
			}
		}
	}
}

func (s *luaScript) alwaysKey(p param) bool {
	calls := s.calls[p.function]
	return s.bound[p.function] == 1 && s.idents[p.function] == len(calls) &&
		!slices.ContainsFunc(calls, func(c *ast.FuncCallExpr) bool { return p.at >= len(c.Args) || !s.isKey(c.Args[p.at]) })
}

func (s *luaScript) isKey(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.AttrGetExpr:
		return isName(e.Object, "KEYS")
	case *ast.IdentExpr:
		return s.keys[e.Value]
	}
	return false
}

// check looks at one redis.call.
func (s *luaScript) check(call *ast.FuncCallExpr) {
	args := call.Args
	if len(args) == 1 {
		if f, ok := args[0].(*ast.FuncCallExpr); ok && isName(f.Func, "unpack") {
			args = nil
			if list, ok := f.Args[0].(*ast.IdentExpr); ok && s.bound[list.Value] == 1 && s.tables[list.Value] != nil {
				for _, field := range s.tables[list.Value].Fields {
					args = append(args, field.Value)
				}
			}
		}
	}
	if len(args) == 0 {
		s.fault(call.Line(), "a call whose command cannot be seen")
		return
	}
	command := text(args[0])
	switch at, known := keyAt[command]; {
	case !known:
		s.fault(call.Line(), "which keys %q takes is not known to this test", command)
	case at >= len(args) || at > 0 && !s.isKey(args[at]):
		s.fault(call.Line(), "the key of %s is not one of KEYS", command)
	}
}

func isName(e ast.Expr, name string) bool {
	ident, ok := e.(*ast.IdentExpr)
	return ok && ident.Value == name
}

func text(e ast.Expr) string {
	s, ok := e.(*ast.StringExpr)
	if !ok {
		return ""
	}
	return s.Value
}

// walk calls visit for every node of a syntax tree.
func walk(v reflect.Value, visit func(any)) {
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return
		}
		if v.Kind() == reflect.Pointer {
			visit(v.Interface())
		}
		walk(v.Elem(), visit)
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), visit)
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanInterface() {
				walk(field, visit)
			}
		}
	}
}
