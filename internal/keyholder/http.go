package keyholder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
	"chancery/request"
)

const (
	headerTimeout   = 10 * time.Second
	readTimeout     = 2 * time.Minute // 64 MiB over a slow line
	writeTimeout    = 5 * time.Minute // checks of 20,000 envelopes, witnesses
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	maxHeader       = 16 << 10
)

// serve answers until ctx ends. It returns nil then, and an error where it
// can't serve.
func (h *holder) serve(ctx context.Context) error {
	s := &http.Server{
		Handler:           h.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(h.Listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("couldn't serve: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := s.Shutdown(stop); err != nil {
		s.Close() // whoever still waits asks again, and is answered the same
	}
	return nil
}

func (h *holder) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathQuery, h.serveQuery)
	mux.HandleFunc("POST "+wire.PathNotice, h.serveNotice)
	mux.HandleFunc("POST "+wire.PathTransfer, h.serveTransfer)
	mux.HandleFunc("GET "+wire.PathHolder, h.serveStatus)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, "no such address", "", "a holder serves queries, notices, transfers between guards and its status")
	})
	return mux
}

func (h *holder) serveQuery(w http.ResponseWriter, r *http.Request) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-r.Context().Done():
		return
	}
	raw, ok := body(w, r, request.MaxQuery)
	if !ok {
		return
	}
	answer, refusal := h.judge(r.Context(), raw)
	if refusal == nil {
		h.answered.Add(1)
		reply(w, http.StatusOK, answer)
		return
	}
	h.refused.Add(1)
	h.Log.Info("query refused", "request", refusal.Request.Short(), "code", refusal.Code)
	signed, err := h.refuse(refusal)
	if err != nil {
		h.internal(w, err)
		return
	}
	reply(w, http.StatusConflict, signed)
}

func (h *holder) serveNotice(w http.ResponseWriter, r *http.Request) {
	raw, ok := body(w, r, maxNotice)
	if !ok {
		return
	}
	var submit wire.Submit
	if err := codec.Decode(raw, &submit); err != nil {
		problem(w, http.StatusBadRequest, "not a notice", err.Error(), "send the statement as it was submitted to the server")
		return
	}
	// Who may sign what is in the log, which may be newer than the last look.
	if err := h.sync(r.Context()); err != nil {
		h.Log.Warn("took a notice by the log as it was", "problem", err)
	}
	switch err := h.handOver(&submit); {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, errNotice):
		problem(w, http.StatusBadRequest, "can't be handed over", err.Error(), "")
	case errors.Is(err, errUnauthorised), errors.Is(err, codec.ErrSignature):
		problem(w, http.StatusForbidden, "not taken", err.Error(), "sign with a key whose role the control log has")
	case errors.Is(err, control.ErrMalformed), errors.Is(err, control.ErrConflict), errors.Is(err, codec.ErrEncoding):
		problem(w, http.StatusBadRequest, "not a notice", err.Error(), "send the statement as it was submitted to the server")
	case errors.Is(err, errTooMany):
		problem(w, http.StatusInsufficientStorage, "not taken", err.Error(), "")
	default:
		h.internal(w, err)
	}
}

func (h *holder) serveTransfer(w http.ResponseWriter, r *http.Request) {
	raw, ok := body(w, r, maxTransfer)
	if !ok {
		return
	}
	answer, err := h.hand(raw)
	if err != nil {
		// To whoever isn't a guard, or asks for what isn't here, all is one.
		h.Log.Info("transfer refused", "problem", err)
		problem(w, http.StatusForbidden, "no such transfer", "", "only the other guards of the organisation are handed a month's key")
		return
	}
	reply(w, http.StatusOK, answer)
}

func (h *holder) serveStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(h.status()) // a failed write is the reader's to notice
}

// body reads a request of at most limit bytes, or answers why not.
func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != wire.MediaType {
		problem(w, http.StatusUnsupportedMediaType, "unexpected media type", "", "send "+wire.MediaType)
		return nil, false
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		problem(w, http.StatusRequestEntityTooLarge, "too long", fmt.Sprintf("more than %d bytes", limit), "")
		return nil, false
	case err != nil:
		problem(w, http.StatusBadRequest, "couldn't read the request", "", "send it again")
		return nil, false
	}
	return raw, true
}

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", wire.MediaType)
	w.WriteHeader(status)
	w.Write(body) // a failed write is the reader's to notice
}

func (h *holder) internal(w http.ResponseWriter, err error) {
	h.Log.Error("internal error", "problem", err)
	problem(w, http.StatusInternalServerError, "internal error", "", "the holder's operator finds the cause in its log")
}

func problem(w http.ResponseWriter, status int, title, detail, hint string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(&wire.Problem{Type: "about:blank", Title: title, Status: status, Detail: detail, Hint: hint})
}
