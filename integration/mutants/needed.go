package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// testFile is what a file of tests declares and mentions, by name alone: what merely has the name of something is taken for it.
type testFile struct {
	pkg      string // its package
	declares map[string]bool
	methods  map[string]bool // types that it has methods of
	mentions map[string]bool
	always   bool // it acts by being there
}

// needless returns the files of tests in a directory that the named tests have no use for, with a text in place of each that
// declares nothing. Most of the time that a mutant takes is spent on compiling tests.
func needless(dir string, tests []string) (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	files := make(map[string]*testFile, len(paths))
	for _, path := range paths {
		if files[path], err = readTestFile(path); err != nil {
			return nil, err
		}
	}
	var inside, outside mentioned // by files of the package itself, and of the one that has _test behind its name
	for _, of := range []*mentioned{&inside, &outside} {
		of.names, of.types = make(map[string]bool), make(map[string]bool)
		for _, name := range tests {
			name, _, _ = strings.Cut(name, "/")
			of.names[name] = true
		}
	}
	needed := make(map[string]bool)
	for again := true; again; {
		again = false
		for path, f := range files {
			by := &inside
			if strings.HasSuffix(f.pkg, "_test") {
				by = &outside
			}
			if needed[path] || !f.always && !anyOf(f.declares, by.names) && !anyOf(f.methods, by.types) {
				continue
			}
			needed[path], again = true, true
			maps.Copy(by.names, f.mentions)
			maps.Copy(by.types, f.declares)
			for name := range f.mentions {
				if by == &outside && ast.IsExported(name) {
					inside.names[name] = true
				}
			}
		}
	}
	empty := make(map[string]string)
	for path, f := range files {
		if !needed[path] {
			empty[path] = "package " + f.pkg + "\n"
		}
	}
	return empty, nil
}

type mentioned struct{ names, types map[string]bool }

func anyOf(of, wanted map[string]bool) bool {
	for name := range of {
		if wanted[name] {
			return true
		}
	}
	return false
}

func readTestFile(path string) (*testFile, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &testFile{pkg: parsed.Name.Name, declares: make(map[string]bool), methods: make(map[string]bool), mentions: make(map[string]bool)}
	for _, decl := range parsed.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv != nil {
				f.methods[receiver(d.Recv.List[0].Type)] = true
				continue
			}
			f.declares[d.Name.Name] = true
			f.always = f.always || slices.Contains([]string{"init", "TestMain"}, d.Name.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					f.declares[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range s.Names {
						f.declares[name.Name] = true
					}
				}
			}
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			f.mentions[id.Name] = true
		}
		return true
	})
	delete(f.declares, "_")
	return f, nil
}

// receiver is the name of the type that a method is of.
func receiver(typ ast.Expr) string {
	switch t := typ.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}
