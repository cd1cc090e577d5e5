-- polls.lua - wrk asks after many jobs in turn: wrk -s polls.lua URL -- FILE PREFIX SUFFIX, one id a
-- line of FILE. The requests are made before, so that they cost the client next to nothing.
local requests, at = {}, 0

function init(args)
    wrk.headers["Prefer"] = "wait=0"
    for id in io.lines(args[1]) do
        requests[#requests + 1] = wrk.format("GET", args[2] .. id .. (args[3] or ""))
    end
end

function request()
    at = at % #requests + 1
    return requests[at]
end

function done(summary, latency)
    local errors = summary.errors
    local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("BENCH %.1f %d\n", summary.requests / summary.duration * 1e6, bad))
end
