package bench

import (
	"testing"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }
