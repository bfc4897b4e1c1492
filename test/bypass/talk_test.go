package bypass

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// talk is a TLS client that believes everything: it connects to an address, gives
// a name ("-": none), sends a request and tells what it hears.
func talk(args []string) error {
	addr, sni, request := args[0], args[1], args[2]
	if sni == "-" {
		sni = ""
	}
	tell := func(err error) error {
		fmt.Printf("talk %v\n", err)
		return nil
	}
	c, err := net.DialTimeout("tcp", addr, patient(1500*time.Millisecond))
	if err != nil {
		return tell(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patient(5 * time.Second)))
	s := tls.Client(c, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
	b, err := hex.DecodeString(request)
	if err == nil {
		_, err = s.Write(b)
	}
	buf := make([]byte, 4096)
	n := 0
	if err == nil {
		c.SetDeadline(time.Now().Add(patient(3 * time.Second)))
		n, err = s.Read(buf)
	}
	if err != nil && n == 0 {
		return tell(err)
	}
	head, _, _ := bytes.Cut(buf[:n], []byte("\r\n"))
	fmt.Printf("talk ok %s\n", head)
	return nil
}

// question is a DNS question for the address of a name.
func question(name string) []byte {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// framed is a message of DNS as TCP carries it (RFC 1035 section 4.2.2).
func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
}

// relayPort is where relays listen, on every address of the host.
const relayPort = 8123

// beRelay receives connections and datagrams on a port, where it is started, and
// tells of each.
func beRelay(args []string) error {
	for _, addr := range args {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Printf("tcp %s -\n", c.RemoteAddr())
				go func() {
					buf := make([]byte, 4096)
					n, _ := c.Read(buf)
					fmt.Printf("tcp %s %x\n", c.RemoteAddr(), buf[:n])
					c.Close()
				}()
			}
		}()
		go func() {
			buf := make([]byte, 4096)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				fmt.Printf("udp %s %x\n", from, buf[:n])
			}
		}()
	}
	fmt.Println("ready " + strconv.Itoa(os.Getpid()))
	// It ends with its input.
	os.Stdin.Read(make([]byte, 1))
	return nil
}
