-- done.lua - wrk asks for the same job again and again, as a client of /generate does.
wrk.method = "POST"
wrk.path = "/generate"
wrk.body = "server=http%3A%2F%2F127.0.0.1%3A1&documentSetId=" .. (os.getenv("BENCH_SET") or "done")
wrk.headers["Authorization"] = "Basic dG9rZW46eC1hdXRoLXRva2Vu"
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"

function done(summary, latency)
    local errors = summary.errors
    local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("BENCH %.1f %d\n", summary.requests / summary.duration * 1e6, bad))
end
