//! Pure certificate decisions: no file, socket or clock; `now` is an argument.
