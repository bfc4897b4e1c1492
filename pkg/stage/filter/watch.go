package filter

import (
	"errors"
	"io"
	"sync/atomic"

	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/decode"
	"sallyport/pkg/stage/size"
)

// watch lets a body pass that is only looked at.
func (s *Stage) watch(x *exchange.Exchange, d *side, k *kind, src exchange.Body, trailer *exchange.Header) exchange.Body {
	r := s.run(x, d)
	r.st.runs = append(r.st.runs, r)
	if k.unreadable != "" {
		r.place = "body"
		r.st.note(r.where(0) + " not judged: " + k.unreadable)
		return exchange.Watch(src, &onlooker{r: r, trailer: trailer})
	}
	o := &onlooker{r: r, judge: k.judge(r), trailer: trailer, out: r.passed, share: share{m: s.o.Memory, workload: x.Subject.Workload}}
	if len(k.codings) > 0 {
		o.f = follow(o.judge, k, r, o.share)
		o.judge = nil
		r.st.followed = append(r.st.followed, o.f)
	} else {
		r.st.onlookers = append(r.st.onlookers, o)
	}
	return exchange.Watch(src, o)
}

// An onlooker looks at a body that passes as it is.
type onlooker struct {
	r       *run
	judge   judge // nil: nobody can
	f       *follower
	trailer *exchange.Header
	out     []byte
	share   share
}

// textNoMemory is what is noted of a body that is only looked at.
const textNoMemory = "body not judged to its end: there is no memory for more bodies"

// Watch implements exchange.Watcher.
func (o *onlooker) Watch(p []byte, last bool) error {
	var err error
	switch {
	case o.f != nil:
		o.f.write(p, last)
		if refusal := o.f.refusal.Load(); refusal != nil {
			err = refusal
		}
	case o.judge != nil:
		o.out, err = o.judge.feed(o.out[:0], p, last)
		if !o.share.set(int64(o.judge.memory())) {
			o.r.st.note(textNoMemory)
			o.judge, o.out = nil, nil
			o.share.set(0)
		}
	}
	if err == nil && last {
		if refusal := o.r.fields(o.trailer, true); refusal != nil {
			err = refusal
		}
	}
	return err
}

// A follower decodes a body beside its way, for somebody who only looks: the
// body itself never waits for more than that what it brought is read.
type follower struct {
	to   *io.PipeWriter
	done chan struct{}
	// refusal is of a body that decompresses beyond the rule's size_limit.
	refusal atomic.Pointer[exchange.Refusal]
}

func follow(j judge, k *kind, r *run, held share) *follower {
	from, to := io.Pipe()
	f := &follower{to: to, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		// What follows is not read by anybody.
		defer func() { _, _ = io.Copy(io.Discard, from) }()
		defer held.set(0)
		limit := int64(decode.Max)
		if k.stream {
			limit = 0
		}
		dec := decode.NewReader(from, k.codings, limit)
		defer dec.Close()
		in, out := make([]byte, step), []byte(nil)
		for {
			if !held.set(int64(dec.Memory() + j.memory())) {
				r.st.note(textNoMemory)
				return
			}
			n, err := dec.Read(in)
			if n > 0 || err == io.EOF {
				// Nobody refuses here.
				out, _ = j.feed(out[:0], in[:n], err == io.EOF)
				if refusal := size.Decoded(r.x, r.side.response, dec.Decoded()); refusal != nil {
					f.refusal.Store(refusal)
				}
			}
			if err == nil {
				continue
			}
			if errors.Is(err, decode.ErrBomb) || errors.Is(err, decode.ErrCorrupt) {
				r.place = "body"
				r.st.note(r.where(0) + " not judged to its end: " + cause(err))
			}
			return
		}
	}()
	return f
}

// write hands on what came.
func (f *follower) write(p []byte, last bool) {
	if len(p) > 0 {
		_, _ = f.to.Write(p)
	}
	if last {
		_ = f.to.Close()
		<-f.done
	}
}

// stop ends it, also where the body has not ended.
func (f *follower) stop() {
	_ = f.to.CloseWithError(io.ErrUnexpectedEOF)
	<-f.done
}
