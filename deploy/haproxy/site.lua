-- Validate the key or the session of a request at the platform; called by site.cfg.
--
-- url: the platform's /api/v1/auth?site=…, with &scope=… if the key needs a scope.
-- host: the host in the platform's PUBLIC_URL: it answers no other.

local ASKED_WITH = {
    "x-api-key", "authorization", "origin", "cookie", "accept", "accept-language",
    "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-site",
}
-- The third and fourth are empty for sessions, the last without a ComfyUI with --multi-user.
local GRANTED = {"x-auth-user", "x-auth-email", "x-auth-key-id", "x-auth-scopes", "comfy-user"}
local REFUSED = {
    "content-type", "cache-control", "www-authenticate", "retry-after",
    "access-control-allow-origin", "access-control-expose-headers", "location", "set-cookie",
}
-- 302 leads to the login.
local REFUSALS = {[302] = true, [400] = true, [401] = true, [403] = true, [429] = true}
local UNKNOWN = '{"error": "SERVICE_UNAVAILABLE", '
    .. '"message": "Access can\'t be checked right now. Try again shortly."}'

local function refuse(txn, answer)
    local reply = txn:reply()
    if REFUSALS[answer.status] then
        reply:set_status(answer.status)
        for _, name in ipairs(REFUSED) do
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
        reply:set_body(UNKNOWN)
    end
    txn:done(reply)
end

core.register_action("site_auth", {"http-req"}, function(txn, url, host)
    local client = txn.http:req_get_headers()
    local headers = {
        ["host"] = {host},
        ["x-forwarded-for"] = {txn.f:src()},
        ["x-forwarded-proto"] = {txn.f:ssl_fc() == 1 and "https" or "http"},
        ["x-forwarded-method"] = {txn.f:method()},
        ["x-forwarded-uri"] = {txn.f:pathq()},
    }
    for _, name in ipairs(ASKED_WITH) do
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
        refuse(txn, answer)
    end
    for _, name in ipairs(GRANTED) do
        if answer.headers[name] then
            txn.http:req_set_header(name, answer.headers[name][0])
        end
    end
    txn:set_var("txn.user", answer.headers["x-auth-user"][0])
    if answer.headers["x-auth-key-id"] then
        txn:set_var("txn.key_id", answer.headers["x-auth-key-id"][0])
    end
end, 2)
