package client

// Hooks of tests.

func (d *Device) TestOnlyArchive(f func(record []byte) []byte) { d.testOnlyArchive = f }

func (d *Device) TestOnlyStep(f func(step string) error) { d.testOnlyStep = f }

// TestOnlyCrash closes the file and nothing else, as the end of the process
// would.
func (d *Device) TestOnlyCrash() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.store.Close()
}
