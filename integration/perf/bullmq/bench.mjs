// Measures BullMQ for integration/perf. Each line of standard input is a
// request in JSON, and is answered by one line.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { Queue, Worker } from 'bullmq'

const require = createRequire(import.meta.url)
const handlers = 100
const now = () => performance.timeOrigin + performance.now() // ms, finer than Date.now()
const later = ms => new Promise(resolve => setTimeout(resolve, ms))
const data = size => 'a'.repeat(Math.max(size - 2, 1)) // two quotes make it JSON
const jobOptions = { removeOnComplete: true }

// The first jobs of a process are slow: Node compiles what is called often while it runs. They are not what is measured.
const warm = new Set()
async function warmUp(what, queue, connection, request) {
  if (warm.has(what)) return
  warm.add(what)
  await todo[what](queue, connection, { ...request, n: 20000 })
  await queue.obliterate({ force: true })
}

const todo = {
  versions: async () => ({ bullmq: require('bullmq/package.json').version, node: process.version.slice(1) }),

  // from the start of the first handler until the last job is completed
  async drain(queue, connection, { n, payload }) {
    await warmUp('drain', queue, connection, { payload })
    const jobs = Array.from({ length: 1000 }, () => ({ name: 'bench', data: data(payload), opts: jobOptions }))
    for (let left = n; left > 0; left -= jobs.length) await queue.addBulk(jobs.slice(0, left))
    let first = 0, done = 0
    await serve(queue, connection, handlers, () => { first ||= now() }, worker => new Promise((resolve, reject) => {
      worker.on('completed', () => { if (++done === n) resolve() })
      worker.on('failed', (_, err) => reject(err))
    }))
    return { took: now() - first }
  },

  async publish(queue, connection, { n, callers, payload }) {
    await warmUp('publish', queue, connection, { callers, payload })
    const text = data(payload), begun = now()
    let left = n
    const caller = async () => { while (left-- > 0) await queue.add('bench', text, jobOptions) }
    await Promise.all(Array.from({ length: callers }, caller))
    const took = now() - begun
    const stored = await queue.getWaitingCount()
    if (stored !== n) throw new Error(`${stored} of ${n} jobs are stored`)
    return { took }
  },

  // each job is sent when it is time to, whether the one before is stored or not
  async latency(queue, connection, { n, rate, payload }) {
    const text = data(payload), sent = new Float64Array(n), latencies = []
    let begun
    await serve(queue, connection, handlers, job => { latencies.push(now() - sent[job.name]) }, async () => {
      begun = now()
      const sending = []
      for (let i = 0; i < n; i++) {
        for (let wait; (wait = begun + i / rate * 1000 - now()) > 0;) await later(wait)
        sent[i] = now()
        sending.push(queue.add(String(i), text, jobOptions))
      }
      await Promise.all(sending)
      while (latencies.length < n) await later(1)
    })
    return { took: now() - begun, latencies }
  },

  async deferred(queue, connection, { n, ahead, perSecond, payload }) {
    const text = data(payload), latencies = []
    let first
    await serve(queue, connection, handlers, job => { latencies.push(now() - job.timestamp - job.opts.delay) }, async () => {
      first = Date.now() + ahead
      const jobs = []
      for (let i = 0; i < n; i++) {
        const timestamp = Date.now(), due = Math.round(first + i / perSecond * 1000)
        jobs.push({ name: 'bench', data: text, opts: { ...jobOptions, timestamp, delay: due - timestamp } })
      }
      await queue.addBulk(jobs)
      if (Date.now() > first) throw new Error('the first job was due before all were stored')
      while (latencies.length < n) await later(1)
    })
    return { took: now() - first, latencies }
  },
}

// serve runs a worker, ready, while something is done.
async function serve(queue, connection, concurrency, handle, work) {
  const worker = new Worker(queue.name, async job => { handle(job) }, { connection, concurrency, autorun: false })
  let failed
  worker.on('error', err => { failed = err })
  await worker.waitUntilReady()
  const working = work(worker)
  const running = worker.run()
  await working
  await worker.close()
  await running
  if (failed) throw failed
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  let answer, queue
  const connection = { host: request.host, port: request.port, maxRetriesPerRequest: null }
  try {
    if (request.queue) {
      queue = new Queue(request.queue, { connection })
      await queue.waitUntilReady()
    }
    answer = await todo[request.do](queue, connection, request)
  } catch (err) {
    answer = { error: String(err) }
  }
  try {
    await queue?.obliterate({ force: true })
    await queue?.close()
  } catch (err) {
    answer = { error: String(err) }
  }
  console.log(JSON.stringify(answer))
}
