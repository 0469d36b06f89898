-- Ask the platform about a request: its key for forward-auth.cfg, its key or session for site.cfg.
--
-- url: the platform's /api/v1/auth, with ?scope=… if the key needs a scope; for a site ?site=…&scope=….
-- host: the host in the platform's PUBLIC_URL: it answers no other.

local function append(list, more)
    for _, value in ipairs(more) do
        table.insert(list, value)
    end
end

-- asked_with, granted, refused: the headers that the platform gets, those that ComfyUI gets, and those
-- that the client gets with a refusal. refusals: statuses that the client gets; any other is a 503.
local function for_keys()
    return {
        asked_with = {"x-api-key", "authorization", "origin"},
        granted = {"x-auth-user", "x-auth-email", "x-auth-key-id", "x-auth-scopes"},
        refused = {
            "content-type", "cache-control", "www-authenticate", "retry-after",
            "access-control-allow-origin", "access-control-expose-headers",
        },
        refusals = {[400] = true, [401] = true, [403] = true, [429] = true},
        unknown = "API keys can't be checked right now. Try again shortly.",
    }
end

local function for_sites()
    local caller = for_keys()
    append(caller.asked_with, {
        "cookie", "accept", "accept-language", "sec-fetch-mode", "sec-fetch-dest",
        "sec-fetch-site",
    })
    -- Without a ComfyUI with --multi-user there is none.
    append(caller.granted, {"comfy-user"})
    append(caller.refused, {"location", "set-cookie"})
    -- It leads to the login.
    caller.refusals[302] = true
    caller.unknown = "Access can't be checked right now. Try again shortly."
    return caller
end

local function refuse(txn, caller, answer)
    local reply = txn:reply()
    if caller.refusals[answer.status] then
        reply:set_status(answer.status)
        for _, name in ipairs(caller.refused) do
            if answer.headers[name] then
                reply:add_header(name, answer.headers[name][0])
            end
        end
        reply:set_body(answer.body or "")
    else
        -- The platform can't be reached, or can't validate the key now.
        reply:set_status(503)
        reply:add_header("content-type", "application/json")
        reply:add_header("retry-after", "5")
        reply:add_header("access-control-allow-origin", "*")
        reply:set_body('{"error": "SERVICE_UNAVAILABLE", "message": "' .. caller.unknown .. '"}')
    end
    txn:done(reply)
end

local function ask(txn, caller, url, host)
    local client = txn.http:req_get_headers()
    local headers = {
        ["host"] = {host},
        ["x-forwarded-for"] = {txn.f:src()},
        ["x-forwarded-proto"] = {txn.f:ssl_fc() == 1 and "https" or "http"},
        ["x-forwarded-method"] = {txn.f:method()},
        ["x-forwarded-uri"] = {txn.f:pathq()},
    }
    for _, name in ipairs(caller.asked_with) do
        if client[name] then
            -- All values, because two keys are refused. HAProxy counts from 0, Lua from 1.
            headers[name] = {}
            for index = 0, #client[name] do
                table.insert(headers[name], client[name][index])
            end
        end
    end
    local answer = core.httpclient():get{url = url, headers = headers, timeout = 10000}
    if answer.status ~= 204 then
        refuse(txn, caller, answer)
    end
    for _, name in ipairs(caller.granted) do
        -- A session has no key and no scopes.
        if answer.headers[name] then
            txn.http:req_set_header(name, answer.headers[name][0])
        end
    end
    txn:set_var("txn.user", answer.headers["x-auth-user"][0])
    if answer.headers["x-auth-key-id"] then
        txn:set_var("txn.key_id", answer.headers["x-auth-key-id"][0])
    end
end

core.register_action("forward_auth", {"http-req"}, function(txn, url, host)
    ask(txn, for_keys(), url, host)
end, 2)

core.register_action("site_auth", {"http-req"}, function(txn, url, host)
    ask(txn, for_sites(), url, host)
end, 2)
