package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestNeedless(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a_test.go":      "package p_test\n\nfunc TestA(t *testing.T) { helper(p.Own) }\n\nfunc TestTwo(t *testing.T) {}\n",
		"b_test.go":      "package p_test\n\nfunc helper(int) { book{}.add() }\n\ntype book struct{}\n",
		"c_test.go":      "package p_test\n\nfunc (book) add() {}\n\nvar _ = 1\n",
		"d_test.go":      "package p_test\n\nfunc TestD(t *testing.T) { other() }\n\nfunc other() {}\n\nvar _ = 2\n",
		"e_test.go":      "package p\n\nvar a, other = 1, 2\n",
		"export_test.go": "package p\n\nconst Own = 1\n",
		"main_test.go":   "package p_test\n\nfunc TestMain(m *testing.M) { begin() }\n",
		"begin_test.go":  "package p_test\n\nconst x = 1\n\nfunc begin() {}\n",
		"init_test.go":   "package p\n\nfunc init() {}\n",
		"method_test.go": "package p\n\nfunc (f fake) init() {}\n\ntype fake int\n",
		"code.go":        "package p\n\nfunc unused() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		tests []string
		empty []string
	}{
		{[]string{"TestA/some/part"}, []string{"d_test.go", "e_test.go", "method_test.go"}},
		{[]string{"TestD"}, []string{"a_test.go", "b_test.go", "c_test.go", "e_test.go", "export_test.go", "method_test.go"}},
		{[]string{"TestD", "TestTwo"}, []string{"e_test.go", "method_test.go"}},
		{[]string{"TestNone"}, []string{"a_test.go", "b_test.go", "c_test.go", "d_test.go", "e_test.go", "export_test.go", "method_test.go"}},
	} {
		empty, err := needless(dir, c.tests)
		var got []string
		for _, path := range slices.Sorted(maps.Keys(empty)) {
			got = append(got, filepath.Base(path))
		}
		if err != nil || !slices.Equal(got, c.empty) {
			t.Errorf("of %v: %v, %v; want %v", c.tests, got, err, c.empty)
		}
		if text := empty[filepath.Join(dir, "method_test.go")]; text != "package p\n" {
			t.Errorf("in place of a file there is %q", text)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bad_test.go"), []byte("package"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := needless(dir, []string{"TestA"}); err == nil {
		t.Error("a file that is no Go passes")
	}
}
