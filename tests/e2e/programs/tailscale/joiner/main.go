// Command joiner logs one new node in, by the very client that tailscaled has, and ends: light enough for one a second.
//
// The auth key comes in the environment, as containerboot gets it. A server that does not take it ends this with 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"tailscale.com/control/controlclient"
	"tailscale.com/hostinfo"
	"tailscale.com/net/netmon"
	"tailscale.com/net/tsdial"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/util/eventbus"
)

func main() {
	server := flag.String("login-server", "", "URL of the control server")
	hostname := flag.String("hostname", "", "name of the node")
	limit := flag.Duration("limit", 20*time.Second, "time for all of it")
	flag.Parse()
	if err := join(*server, *hostname, os.Getenv("TS_AUTHKEY"), *limit); err != nil {
		log.Fatal(err)
	}
}

func join(server, hostname, authKey string, limit time.Duration) error {
	if authKey == "" {
		return errors.New("TS_AUTHKEY is empty")
	}
	bus := eventbus.New()
	defer bus.Close()
	dialer := tsdial.NewDialer(netmon.NewStatic())
	dialer.SetBus(bus)
	machine := key.NewMachine()
	info := hostinfo.New()
	info.Hostname = hostname
	// The client insists on one, and keeps no log under it.
	info.BackendLogID = hostname
	client, err := controlclient.NewDirect(controlclient.Options{
		ServerURL:            server,
		AuthKey:              authKey,
		Hostinfo:             info,
		GetMachinePrivateKey: func() (key.MachinePrivate, error) { return machine, nil },
		Dialer:               dialer,
		Bus:                  bus,
		Logf:                 logger.Discard,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	url, err := client.TryLogin(ctx, controlclient.LoginDefault)
	if err != nil {
		return err
	}
	if url != "" {
		return fmt.Errorf("the server wants a person to log in: %s", url)
	}
	return nil
}
