package env

import (
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

var durationType = reflect.TypeFor[time.Duration]()

// normal checks a value for a field. It returns the value as go-envconfig
// reads it, or a hint that says what is expected instead.
//
// Tags of the field: off:"true" allows "off", which is -1; zero:"…" says what
// to write instead of 0, which would mean the default.
func normal(f reflect.StructField, value string) (string, string) {
	off := f.Tag.Get("off") != ""
	isNumber := f.Type == durationType || f.Type.Kind() >= reflect.Int && f.Type.Kind() <= reflect.Float64
	if isNumber && off && strings.EqualFold(value, "off") {
		if f.Type == durationType {
			return "-1ns", ""
		}
		return "-1", ""
	}
	value, hint := parse(f, value)
	if hint != "" && off && !strings.Contains(hint, `"off"`) {
		hint += `, or "off"`
	}
	return value, hint
}

func parse(f reflect.StructField, value string) (string, string) {
	switch {
	case f.Type == durationType:
		return parseDuration(f, value)
	case f.Type.Kind() >= reflect.Int && f.Type.Kind() <= reflect.Uint64:
		n, err := strconv.ParseInt(value, 10, f.Type.Bits())
		switch {
		case errors.Is(err, strconv.ErrRange) && !strings.HasPrefix(value, "-"):
			return "", "is too large"
		case err != nil && !errors.Is(err, strconv.ErrRange):
			return "", "must be a whole number"
		case n == 0 && f.Tag.Get("zero") != "":
			return "", "ambiguous: " + f.Tag.Get("zero")
		case n <= 0:
			return "", "must be at least 1"
		}
		return strconv.FormatInt(n, 10), ""
	case f.Type.Kind() == reflect.Float64 || f.Type.Kind() == reflect.Float32:
		x, err := strconv.ParseFloat(value, f.Type.Bits())
		switch {
		case err != nil || math.IsNaN(x) || math.IsInf(x, 0):
			return "", "must be a number"
		case x == 0:
			return "", zeroHint(f, "leave it unset for the default")
		}
		return value, ""
	case f.Type.Kind() == reflect.Bool:
		if _, err := strconv.ParseBool(value); err != nil {
			return "", "must be true or false"
		}
	}
	return value, ""
}

func parseDuration(f reflect.StructField, value string) (string, string) {
	d, err := time.ParseDuration(value)
	if err != nil {
		if x, err := strconv.ParseFloat(value, 64); err == nil && x > 0 && !math.IsInf(x, 0) {
			return "", "needs a unit: " + value + "s, " + value + "m"
		}
		return "", "must be a duration, such as 500ms, 90s, 5m or 1h30m"
	}
	switch {
	case d == 0 && f.Tag.Get("zero") != "":
		return "", zeroHint(f, "")
	case d <= 0:
		return "", "must be positive"
	}
	return value, ""
}

func zeroHint(f reflect.StructField, otherwise string) string {
	if hint := f.Tag.Get("zero"); hint != "" {
		return "ambiguous: " + hint
	}
	return "ambiguous: " + otherwise
}
