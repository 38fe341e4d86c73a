package redisenv_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"
	"github.com/sethvargo/go-envconfig"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/redisenv"
)

func newFrom(t *testing.T, vars map[string]string) (redis.UniversalClient, error) {
	t.Helper()
	rdb, err := redisenv.NewFrom(t.Context(), envconfig.MapLookuper(vars))
	if rdb != nil {
		t.Cleanup(func() { _ = rdb.Close() })
	}
	return rdb, err
}

func TestURL(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		vars map[string]string
		want func(*redis.Options) bool
	}{
		{"plain", map[string]string{"REDIS_URL": "redis://h:1"}, func(o *redis.Options) bool { return o.Addr == "h:1" && o.DB == 0 && o.TLSConfig == nil }},
		{"line break", map[string]string{"REDIS_URL": "redis://h:1/2\n"}, func(o *redis.Options) bool { return o.Addr == "h:1" && o.DB == 2 }},
		{"defaults", map[string]string{"REDIS_URL": "redis://"}, func(o *redis.Options) bool {
			return o.Addr == "localhost:6379" && o.ContextTimeoutEnabled && o.DialTimeout == 3*time.Second
		}},
		{"IPv6", map[string]string{"REDIS_URL": "redis://[::1]:7/3"}, func(o *redis.Options) bool { return o.Addr == "[::1]:7" && o.DB == 3 }},
		{"user", map[string]string{"REDIS_URL": "redis://u:p%40%2F%25@h/"}, func(o *redis.Options) bool { return o.Username == "u" && o.Password == "p@/%" }},
		{"options", map[string]string{"REDIS_URL": "redis://h/?pool_size=7&read_timeout=9s&db=4"}, func(o *redis.Options) bool {
			return o.PoolSize == 7 && o.ReadTimeout == 9*time.Second && o.DB == 4
		}},
		{"TLS", map[string]string{"REDIS_URL": "rediss://h", "REDIS_TLS_SERVER_NAME": "n"}, func(o *redis.Options) bool {
			return o.TLSConfig != nil && o.TLSConfig.ServerName == "n" && !o.TLSConfig.InsecureSkipVerify
		}},
		{"unix", map[string]string{"REDIS_URL": "unix://u:p@/run/redis.sock?db=5"}, func(o *redis.Options) bool {
			return o.Network == "unix" && o.Addr == "/run/redis.sock" && o.DB == 5 && o.Username == "u" && o.Password == "p"
		}},
		{"credentials beside it", map[string]string{"REDIS_URL": "redis://h", "REDIS_USERNAME": "u", "REDIS_PASSWORD": " p "}, func(o *redis.Options) bool {
			return o.Username == "u" && o.Password == " p "
		}},
		{"password file", map[string]string{"REDIS_URL": "redis://u@h", "REDIS_PASSWORD_FILE": file}, func(o *redis.Options) bool {
			user, password, err := o.CredentialsProviderContext(context.Background())
			return user == "u" && password == "from a file" && err == nil
		}},
	} {
		rdb, err := newFrom(t, test.vars)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		client, ok := rdb.(*redis.Client)
		if !ok {
			t.Errorf("%s: client is a %T", test.name, rdb)
		} else if o := client.Options(); !test.want(o) {
			t.Errorf("%s: options %+v", test.name, o)
		}
	}
}

func TestClusterAndSentinel(t *testing.T) {
	t.Parallel()
	rdb, err := newFrom(t, map[string]string{"REDIS_URL": "rediss+cluster://u:p@h1:7000,h2", "REDIS_TLS_SERVER_NAME": "n"})
	cluster, ok := rdb.(*redis.ClusterClient)
	if err != nil || !ok {
		t.Fatalf("client is a %T, error %v", rdb, err)
	}
	if o := cluster.Options(); !slices.Equal(o.Addrs, []string{"h1:7000", "h2:6379"}) || o.Password != "p" || o.TLSConfig == nil {
		t.Errorf("cluster options: %+v", o)
	}
	rdb, err = newFrom(t, map[string]string{"REDIS_URL": "redis+cluster://h1:7000"})
	if _, ok := rdb.(*redis.ClusterClient); !ok || err != nil {
		t.Errorf("one address of a cluster: client is a %T, error %v", rdb, err)
	}
	rdb, err = newFrom(t, map[string]string{"REDIS_URL": "redis+sentinel://u:p@h1,h2:7/mymaster/3", "REDIS_SENTINEL_PASSWORD": "s"})
	sentinel, ok := rdb.(*redis.Client)
	if err != nil || !ok {
		t.Fatalf("client is a %T, error %v", rdb, err)
	}
	if o := sentinel.Options(); o.Addr != "FailoverClient" || o.DB != 3 || o.Username != "u" || o.Password != "p" {
		t.Errorf("sentinel options: %+v", o)
	}
}

// faults are names and hints of an error, which must not hold the password.
func faults(t *testing.T, err error) map[string]string {
	t.Helper()
	found := make(map[string]string)
	var list *multierror.Error
	if !errors.As(err, &list) {
		t.Fatalf("error %v is no list", err)
	}
	for _, err := range list.Errors {
		fault, ok := errors.AsType[*stream.ConfigError](err)
		if !ok {
			t.Fatalf("error %#v is no fault", err)
		}
		found[fault.Env] = fault.Hint
	}
	if text := err.Error(); strings.Contains(text, "hunter") || strings.Contains(text, "2secret") {
		t.Errorf("the error shows the password: %s", text)
	}
	return found
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ url, hint string }{
		{"", "set it, e.g."},
		{"localhost:6379", "must begin with"},
		{"hunter2secret", "must begin with"},
		{"http://h", "must begin with"},
		{"redis+ring://h", "must begin with"},
		{"redis://:hunter/2secret@h", "the password holds a '/'"},
		{"redis://:hunter?2secret@h", "a '#', '?' or '@'"},
		{"redis://:hunter#2secret@h", "a '#', '?' or '@'"},
		{"redis://:hunter%zz2secret@h", "a '%'"},
		{"redis://:hunter2secret", "a port must be a number"},
		{"redis://h:0", "a port must be a number"},
		{"redis://h:70000", "a port must be a number"},
		{"redis://::1:80", "an address is not host:port"},
		{"redis://h1,h2", "has several addresses"},
		{"redis://h/x", "the database"},
		{"redis://h/-1", "the database"},
		{"redis://h/0?pool=1", "its options: unexpected option: pool"},
		{"redis://h/0?pool_size=x&password=hunter2secret", "its options"},
		{"redis+cluster://h/1", "a cluster has no databases"},
		{"redis+sentinel://h", "names no master"},
		{"unix://run/redis.sock", "names no absolute path"},
	} {
		_, err := newFrom(t, map[string]string{"REDIS_URL": test.url})
		if err == nil {
			t.Errorf("%s is accepted", test.url)
			continue
		}
		if got := faults(t, err)["REDIS_URL"]; !strings.HasPrefix(got, test.hint) {
			t.Errorf("%s: hint %q, want %q", test.url, got, test.hint)
		}
	}
}

func TestFaultsComeTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newFrom(t, map[string]string{
		"REDIS_URL":               "redis://u:hunter2secret@h",
		"REDIS_USERNAME":          "other",
		"REDIS_PASSWORD":          "hunter3",
		"REDIS_PASSWORD_FILE":     empty,
		"REDIS_SENTINEL_PASSWORD": "hunter4",
		"REDIS_TLS_CA":            empty,
		"REDIS_TLS_KEY":           filepath.Join(dir, "missing"),
	})
	got := faults(t, err)
	for _, name := range []string{
		"REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "REDIS_SENTINEL_PASSWORD", "REDIS_TLS_CA", "REDIS_TLS_CERT", "REDIS_TLS_KEY",
	} {
		if got[name] == "" {
			t.Errorf("%s is not reported: %v", name, err)
		}
	}
	if len(got) != 7 {
		t.Errorf("%d faults, want 7: %v", len(got), err)
	}
}

func TestNotSet(t *testing.T) {
	t.Parallel()
	_, err := newFrom(t, nil)
	want := "REDIS_URL is not set\n  set it, e.g. REDIS_URL=redis://localhost:6379/0, or run `penstock dev` to try Penstock without Redis"
	if err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant    %s", err, want)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"redis://h:1/0":                         "redis://h:1/0",
		"redis://u:hunter2@h:1/0":               "redis://u:xxxxx@h:1/0",
		"redis://hunter2@h":                     "redis://xxxxx@h",
		"redis+cluster://:hunter2@h1,h2:7":      "redis+cluster://:xxxxx@h1,h2:7",
		"redis://:hun/ter@2@h":                  "redis://:xxxxx@h",
		"redis://h/0?password=hunter2&db=1":     "redis://h/0?password=xxxxx&db=1",
		"redis://:hunter2":                      "redis://xxxxx",
		"redis://h1,h2:6379":                    "redis://h1,h2:6379",
		"hunter2":                               "xxxxx",
		"localhost:6379":                        "localhost:6379",
		"unix://u:hunter2@/run/redis.sock?db=1": "unix://u:xxxxx@/run/redis.sock?db=1",
	} {
		if got := redisenv.Redact(raw); got != want {
			t.Errorf("Redact(%q) = %q, want %q", raw, got, want)
		}
	}
}
