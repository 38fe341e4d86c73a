package redisenv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/env"
)

// credentials adds user and password; each may be given once.
func (c Config) credentials(opt *redis.UniversalOptions, a address, f *faults) {
	if c.Username != "" {
		if a.user != "" && a.user != c.Username {
			f.add("REDIS_USERNAME", c.Username, "REDIS_URL names another user: give one of them")
		}
		opt.Username = c.Username
	}
	if c.Password != "" {
		if a.password != "" && a.password != c.Password {
			f.add("REDIS_PASSWORD", env.Hidden, "REDIS_URL holds another password: give one of them")
		}
		opt.Password = c.Password
	}
	if c.PasswordFile != "" {
		if a.password != "" || c.Password != "" {
			f.add("REDIS_PASSWORD_FILE", c.PasswordFile, "there is a password in REDIS_URL or REDIS_PASSWORD too: give one of them")
		}
		if _, err := readPassword(c.PasswordFile); err != nil {
			f.add("REDIS_PASSWORD_FILE", c.PasswordFile, err.Error())
		}
		user, file := opt.Username, c.PasswordFile
		opt.CredentialsProviderContext = func(context.Context) (string, string, error) {
			password, err := readPassword(file)
			if err != nil {
				return "", "", fmt.Errorf("REDIS_PASSWORD_FILE %s: %w", file, err)
			}
			return user, password, nil
		}
	}
	opt.SentinelUsername, opt.SentinelPassword = c.SentinelUsername, c.SentinelPassword
	if a.known && !a.sentinel {
		if c.SentinelUsername != "" {
			f.add("REDIS_SENTINEL_USERNAME", c.SentinelUsername, "REDIS_URL names no sentinels (redis+sentinel://)")
		}
		if c.SentinelPassword != "" {
			f.add("REDIS_SENTINEL_PASSWORD", env.Hidden, "REDIS_URL names no sentinels (redis+sentinel://)")
		}
	}
}

func readPassword(file string) (string, error) {
	data, err := read(file)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", errors.New("the file is empty")
	}
	return password, nil
}

// read reads a file; its error does not repeat the name.
func read(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("can't be read: %w", pathErr.Err)
	}
	return data, err
}

// tls adds certificates. Without any, rediss:// trusts what the system trusts.
func (c Config) tls(opt *redis.UniversalOptions, a address, f *faults) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if a.opts.TLSConfig != nil {
		cfg.InsecureSkipVerify = a.opts.TLSConfig.InsecureSkipVerify // ?skip_verify=true, written by hand
	}
	if c.TLSCA != "" {
		data, err := read(c.TLSCA)
		cfg.RootCAs = x509.NewCertPool()
		if err != nil {
			f.add("REDIS_TLS_CA", c.TLSCA, err.Error())
		} else if !cfg.RootCAs.AppendCertsFromPEM(data) {
			f.add("REDIS_TLS_CA", c.TLSCA, "holds no PEM certificate")
		}
	}
	if c.TLSCert != "" || c.TLSKey != "" {
		c.pair(cfg, f)
	}
	if a.tls {
		opt.TLSConfig = cfg
		return
	}
	if !a.known {
		return
	}
	for _, v := range [][2]string{{"REDIS_TLS_CA", c.TLSCA}, {"REDIS_TLS_CERT", c.TLSCert}, {"REDIS_TLS_KEY", c.TLSKey}, {"REDIS_TLS_SERVER_NAME", c.TLSServerName}} {
		if v[1] != "" {
			f.add(v[0], v[1], "is for TLS, and REDIS_URL does not begin with rediss")
		}
	}
}

// pair reads the client's certificate and key.
func (c Config) pair(cfg *tls.Config, f *faults) {
	if c.TLSKey == "" {
		f.add("REDIS_TLS_KEY", "", "REDIS_TLS_CERT needs its key: name the file")
		return
	}
	if c.TLSCert == "" {
		f.add("REDIS_TLS_CERT", "", "REDIS_TLS_KEY needs its certificate: name the file")
		return
	}
	cert, err := read(c.TLSCert)
	if err != nil {
		f.add("REDIS_TLS_CERT", c.TLSCert, err.Error())
	}
	key, err2 := read(c.TLSKey)
	if err2 != nil {
		f.add("REDIS_TLS_KEY", c.TLSKey, err2.Error())
	}
	if err != nil || err2 != nil {
		return
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		f.add("REDIS_TLS_CERT", c.TLSCert, "does not go with REDIS_TLS_KEY: "+strings.TrimPrefix(err.Error(), "tls: "))
		return
	}
	cfg.Certificates = []tls.Certificate{pair}
}
