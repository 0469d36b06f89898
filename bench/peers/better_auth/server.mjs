// better-auth's API keys, as its pages "Installation" and "API Key" say, behind Node's own server.
//
//     node server.mjs seed 10000     makes the tables and keys; prints one key a line
//     node server.mjs serve          answers GET with the key in x-api-key: 200 or 401
//
// PGHOST, PGDATABASE, PGUSER name the database. With REDIS_PORT the keys are in Redis alone, and
// what a use changes is written behind the answer: the fastest that it documents.

import cluster from "node:cluster"
import { createServer } from "node:http"
import { betterAuth } from "better-auth"
import { getMigrations } from "better-auth/db/migration"
import { apiKey } from "@better-auth/api-key"
import { redisStorage } from "@better-auth/redis-storage"
import { Redis } from "ioredis"
import pg from "pg"

const redisPort = process.env.REDIS_PORT

function makeAuth() {
  return betterAuth({
    baseURL: "http://127.0.0.1",
    secret: process.env.SECRET,
    database: new pg.Pool({ max: 16 }),
    ...(redisPort && {
      secondaryStorage: redisStorage({ client: new Redis({ host: "127.0.0.1", port: redisPort }) }),
    }),
    telemetry: { enabled: false },
    // While it seeds it would complain of the tables that it is about to make.
    logger: { disabled: process.argv[2] === "seed" },
    plugins: [
      apiKey({
        // Ten requests a day for each key, unless one says otherwise.
        rateLimit: { enabled: false },
        ...(redisPort && { storage: "secondary-storage", deferUpdates: true }),
      }),
    ],
    ...(redisPort && {
      advanced: { backgroundTasks: { handler: (task) => void task } },
    }),
  })
}

async function seed(number) {
  const auth = makeAuth()
  const { runMigrations } = await getMigrations(auth.options)
  await runMigrations()
  const { internalAdapter } = await auth.$context
  for (let i = 0; i < number; i++) {
    const user = await internalAdapter.createUser({
      name: `user ${i}`,
      email: `user${i}@example.org`,
      emailVerified: true,
    })
    const made = await auth.api.createApiKey({ body: { name: `key ${i}`, userId: user.id } })
    console.log(made.key)
  }
  process.exit(0)
}

function serve() {
  if (cluster.isPrimary) {
    for (let i = 0; i < Number(process.env.WORKERS); i++) cluster.fork()
    process.on("SIGTERM", () => {
      for (const worker of Object.values(cluster.workers)) worker.kill("SIGKILL")
      process.exit(0)
    })
    return
  }
  const auth = makeAuth()
  createServer(async (request, response) => {
    const { valid } = await auth.api.verifyApiKey({ body: { key: request.headers["x-api-key"] } })
    response.writeHead(valid ? 200 : 401, { "Content-Type": "application/json" })
    response.end(JSON.stringify({ valid }))
  }).listen(Number(process.env.PORT), "127.0.0.1")
}

if (process.argv[2] === "seed") await seed(Number(process.argv[3]))
else serve()
