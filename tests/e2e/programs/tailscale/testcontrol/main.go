// Command testcontrol runs Tailscale's own test control server, which stands in where no Headscale is at hand.
//
// It speaks the real control protocol and refuses every node whose auth key was not announced before.
// POST /sidescale/accept (loopback only) announces the key in the body; GET /sidescale/nodes lists host names.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"strings"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address for nodes")
	admin := flag.String("admin", "127.0.0.1:0", "loopback address for the test")
	flag.Parse()

	// A key that nobody can have: nobody joins before the first key is announced.
	control := &testcontrol.Server{
		RequireAuthKey: "none-announced-yet",
		DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{900: {
			RegionID: 900, RegionCode: "local", RegionName: "local",
			Nodes: []*tailcfg.DERPNode{{Name: "900a", RegionID: 900, HostName: "127.0.0.1", STUNPort: -1, DERPPort: 8443}},
		}}},
	}
	nodes, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("listen on %s for nodes: %v", *listen, err)
	}
	orders, err := net.Listen("tcp", *admin)
	if err != nil {
		log.Fatalf("listen on %s for the test: %v", *admin, err)
	}
	control.ExplicitBaseURL = "http://" + nodes.Addr().String()

	mux := http.NewServeMux()
	mux.HandleFunc("POST /sidescale/accept", func(w http.ResponseWriter, r *http.Request) {
		key, err := io.ReadAll(io.LimitReader(r.Body, 4096))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		control.RequireAuthKey = strings.TrimSpace(string(key))
	})
	mux.HandleFunc("GET /sidescale/nodes", func(w http.ResponseWriter, _ *http.Request) {
		names := []string{}
		for _, node := range control.AllNodes() {
			names = append(names, node.Hostinfo.Hostname())
		}
		_ = json.NewEncoder(w).Encode(names)
	})
	go func() { log.Fatal(http.Serve(orders, mux)) }()
	log.Printf("control server for nodes at %s, for the test at %s", nodes.Addr(), orders.Addr())
	log.Fatal(http.Serve(nodes, control))
}
