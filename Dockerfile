# The image of the process: one binary on distroless/cc, as a numeric user, with the public CA roots that distroless brings.
#   make image
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin sidescale && cp target/release/sidescale /sidescale

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /sidescale /usr/local/bin/sidescale
COPY LICENSE /usr/share/doc/sidescale/LICENSE
# Kubernetes checks runAsNonRoot against a number, not a name.
USER 65532:65532
EXPOSE 10250 8080
ENTRYPOINT ["/usr/local/bin/sidescale"]
CMD ["serve"]
