package consumer

import "testing"

// TestParseInfo: an address that others have too, or that is none, is not to end a connection by.
func TestParseInfo(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		info any
		id   int64
		addr string
	}{
		{"id=3 addr=127.0.0.1:45726 laddr=127.0.0.1:6379 fd=8 name= user=default\n", 3, "127.0.0.1:45726"},
		{"id=4 addr=[::1]:50000 laddr=[::1]:6379", 4, "[::1]:50000"},
		{"id=5 addr=/run/redis/redis.sock:0 laddr=/run/redis/redis.sock:0", 5, ""},
		{"id=6 addr=/run/my redis/redis.sock:0 name=x", 6, ""},
		{"id=7 addr=127.0.0.1:0", 7, ""},
		{"id=8", 8, ""},
		{"", 0, ""},
		{nil, 0, ""},
		{int64(9), 0, ""},
	} {
		if id, addr := parseInfo(tc.info); id != tc.id || addr != tc.addr {
			t.Errorf("%v: %d, %q; want %d, %q", tc.info, id, addr, tc.id, tc.addr)
		}
	}
}
