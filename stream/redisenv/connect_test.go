package redisenv_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

func ping(t *testing.T, vars map[string]string) error {
	t.Helper()
	rdb, err := newFrom(t, vars)
	if err != nil {
		t.Fatal(err)
	}
	return rdb.Ping(t.Context()).Err()
}

func TestConnect(t *testing.T) {
	t.Parallel()
	socketDir, err := os.MkdirTemp("", "ps-") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(socketDir) })
	socket := filepath.Join(socketDir, "redis.sock")
	password := filepath.Join(t.TempDir(), "password")
	write(t, password, []byte("hunter2\n"))
	server := redistest.Server(t, "--unixsocket", socket, "--user", "worker", "on", ">hunter2", "~*", "&*", "+@all")

	for name, vars := range map[string]map[string]string{
		"TCP":           {"REDIS_URL": server.URL()},
		"unix socket":   {"REDIS_URL": "unix://" + socket + "?db=1"},
		"user in URL":   {"REDIS_URL": "redis://worker:hunter2@" + server.Addr()},
		"user beside":   {"REDIS_URL": server.URL(), "REDIS_USERNAME": "worker", "REDIS_PASSWORD": "hunter2"},
		"password file": {"REDIS_URL": "redis://worker@" + server.Addr(), "REDIS_PASSWORD_FILE": password},
	} {
		if err := ping(t, vars); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ping(t, map[string]string{"REDIS_URL": "redis://worker:wrong@" + server.Addr() + "?max_retries=-1"}); err == nil {
		t.Error("a wrong password is accepted")
	}
}

// TestTLS talks to a server whose certificate our own authority has signed, and which asks for the client's.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := certificates(t, dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	redistest.Server(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "yes")

	url := "rediss://127.0.0.1:" + port + "?max_retries=-1"
	good := map[string]string{"REDIS_URL": url, "REDIS_TLS_CA": ca, "REDIS_TLS_CERT": cert, "REDIS_TLS_KEY": key}
	if err := ping(t, good); err != nil {
		t.Errorf("with all certificates: %v", err)
	}
	for name, vars := range map[string]map[string]string{
		"an unknown authority":     {"REDIS_URL": url, "REDIS_TLS_CERT": cert, "REDIS_TLS_KEY": key},
		"another server's name":    {"REDIS_URL": url, "REDIS_TLS_CA": ca, "REDIS_TLS_CERT": cert, "REDIS_TLS_KEY": key, "REDIS_TLS_SERVER_NAME": "other"},
		"no certificate of ours":   {"REDIS_URL": url, "REDIS_TLS_CA": ca},
		"no TLS, to the same port": {"REDIS_URL": "redis://127.0.0.1:" + port + "?max_retries=-1"},
	} {
		if ping(t, vars) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// certificates makes an authority, and one certificate for server and client.
func certificates(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis"},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, &leafKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}))
	write(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}))
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return ca, cert, key
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
