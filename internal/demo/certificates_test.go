package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/testenv"
)

// TestCertificates has the server's authority and OpenSSL's certify devices, and
// two members look at what the log says of theirs, with real processes.
func TestCertificates(t *testing.T) {
	shell := testenv.Program(t, "bash", "Debian package bash")
	testenv.Program(t, "openssl", "Debian package openssl")
	blocks := byHand(t)
	script := "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + strings.Join(blocks[:3], "") + `
MARIA="--device devices/Maria --key-file keys/device-Maria"
JONAS="--device devices/Jonas --key-file keys/device-Jonas"
chancery member add --home home --key people/officer-1 --key people/officer-2 --out invitations "Maria Keller" "Jonas Brandt"
for invitation in invitations/*.invite; do
  name=$(sed -n 's/.*"name": "\([A-Za-z]*\).*/\1/p' $invitation)
  chancery device enrol --device devices/$name --key-file keys/device-$name --invite $invitation
done
chancery safety-number $MARIA --with "Jonas Brandt" --json | grep -o '"safety_number":"[0-9 ]*"' > number-Maria
chancery safety-number $JONAS --with "Maria Keller" --json | grep -o '"safety_number":"[0-9 ]*"' > number-Jonas
cmp number-Maria number-Jonas

chancery ca create --home home --server-dir server --key people/officer-1 --key people/officer-2
chancery conversation list $MARIA
until chancery device audit $MARIA > audit && grep -q 'device .* certified until .* by authority' audit; do sleep 0.2; done
chancery ca show --home home > show
grep -q '1 device' show

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.pem -out company.pem -days 3650 -subj "/CN=Company CA" 2>/dev/null
chancery ca import --home home --days 30 --key people/officer-1 --key people/officer-2 company.pem
chancery device request $JONAS --out device.csr
openssl x509 -req -in device.csr -CA company.pem -CAkey ca.pem -days 29 -copy_extensions copy -out device.pem 2>/dev/null
chancery device certify $JONAS --certificate device.pem
openssl x509 -req -in device.csr -CA company.pem -CAkey ca.pem -days 31 -copy_extensions copy -out long.pem 2>/dev/null
if chancery device certify $JONAS --certificate long.pem 2> refused; then exit 1; fi
grep -q 'lives longer than 720 hours' refused
AUTHORITY=$(chancery ca show --home home | head -1 | cut -d' ' -f1)
chancery ca remove --home home --key people/officer-1 --key people/officer-2 $AUTHORITY
chancery ca show --home home | grep -q removed

chancery member add --home home --key people/officer-1 --key people/officer-2 --out more "Jonas Brandt"
chancery safety-number $MARIA --with $(basename invitations/$(grep -l Jonas invitations/* | xargs basename) .invite) --json | grep -o '"safety_number":"[0-9 ]*"' | cmp - number-Maria
`
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), shell, "-c", script)
	cmd.Dir, cmd.WaitDelay = dir, 10*time.Second
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		for _, name := range []string{"audit", "show", "refused"} {
			data, _ := os.ReadFile(filepath.Join(dir, name))
			t.Logf("%s:\n%s", name, data)
		}
		t.Fatalf("%v\n%s", err, out)
	}
}
