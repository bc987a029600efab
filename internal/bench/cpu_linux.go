package bench

import (
	"bytes"
	"os"
)

// cpu names the processor.
func cpu() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for _, line := range bytes.Split(data, []byte("\n")) {
		if name, ok := bytes.CutPrefix(line, []byte("model name\t: ")); ok {
			return string(name)
		}
	}
	return "unknown processor"
}
