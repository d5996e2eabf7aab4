import { status as GrpcCode } from '@grpc/grpc-js';
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import type { Logger } from '../base/log.js';
import type { Metric, Reading, Sample } from '../base/metrics.js';
import type { CallReport } from './call.js';
import { pathOf, type NodeRequest, type NodeResponse } from './node_http.js';
import { refuse } from './refusals.js';

export const METRICS_PATH = '/metrics';

/** ClaimNext may wait for up to 50 s; the rest is over in much less than a second. */
const DURATION_BUCKETS_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60];

/** How long a stream was open says nothing about the server, and would drown the calls in the sum of all durations. */
const STREAMING_METHODS: ReadonlySet<string> = new Set(
  [...JobService.methods, ...PipelineService.methods]
    .filter(({ methodKind }) => methodKind !== 'unary')
    .map(({ parent, name }) => `${parent.typeName}/${name}`),
);

export interface MetricsOptions {
  /** What the parts of this server offer, each read at every scrape. */
  readonly metrics: readonly Metric[];
  readonly log: Logger;
}

/**
 * The metrics of one server, and the one place that knows Prometheus. Calls are counted here as they end; everything
 * else is read when `/metrics` is asked for.
 */
export class Metrics {
  readonly #registry = new Registry();
  readonly #process = processRegistry();
  readonly #log: Logger;
  readonly #calls: Counter<'method' | 'protocol' | 'code'>;
  readonly #durations: Histogram<'method' | 'protocol'>;

  constructor({ metrics, log }: MetricsOptions) {
    this.#log = log;
    const registers = [this.#registry];
    this.#calls = new Counter({
      name: 'baton_calls_total',
      help: 'Calls that are over, by method, protocol and gRPC code.',
      labelNames: ['method', 'protocol', 'code'],
      registers,
    });
    this.#durations = new Histogram({
      name: 'baton_call_duration_seconds',
      help: 'How long calls took, without streams. ClaimNext includes the time it waited.',
      labelNames: ['method', 'protocol'],
      buckets: DURATION_BUCKETS_SECONDS,
      registers,
    });
    for (const metric of metrics) this.#add(metric);
  }

  /** Counts a call that is over: the `onCall` of both transports. */
  readonly onCall = ({ method, protocol, code, durationMs }: CallReport): void => {
    this.#calls.inc({ method, protocol, code: GrpcCode[code] ?? String(code) });
    if (!STREAMING_METHODS.has(method)) this.#durations.observe({ method, protocol }, durationMs / 1000);
  };

  /** Serves `/metrics`; false when the request is for something else. */
  readonly route = (request: NodeRequest, response: NodeResponse): boolean => {
    if (pathOf(request) !== METRICS_PATH) return false;
    // A request over HTTP/2 that nobody reads would keep its stream open; there is nothing in the body of a GET.
    request.resume();
    if (request.method === 'GET' || request.method === 'HEAD') {
      this.#serve(request, response).catch((error: unknown) => {
        this.#log.error({ err: error }, 'the metrics could not be given');
        response.destroy();
      });
    } else refuse(request, response, 405, ['GET', 'HEAD']);
    return true;
  };

  /** All metrics as text for Prometheus: Baton's first, then the process's own. */
  async render(): Promise<string> {
    return `${await this.#registry.metrics()}\n${await this.#process.metrics()}`;
  }

  async #serve(request: NodeRequest, response: NodeResponse): Promise<void> {
    const body = Buffer.from(await this.render());
    response.writeHead(200, {
      'content-type': this.#registry.contentType,
      'content-length': body.byteLength,
      'cache-control': 'no-store',
    });
    if (request.method === 'HEAD') response.end();
    else response.end(body);
  }

  #add(metric: Metric): void {
    const { name, help, labels, type } = metric;
    const config = { name, help, labelNames: [...labels], registers: [this.#registry] };
    const read = (): Promise<readonly Sample[]> => this.#read(metric);
    if (type === 'gauge') {
      const gauge: Gauge = new Gauge({
        ...config,
        collect: async () => {
          const samples = await read();
          clear(gauge, labels);
          for (const sample of samples) gauge.set(sample.labels, sample.value);
        },
      });
    } else {
      // The number is counted where it arises; this takes its place at every scrape.
      const counter: Counter = new Counter({
        ...config,
        collect: async () => {
          const samples = await read();
          clear(counter, labels);
          for (const sample of samples) counter.inc(sample.labels, sample.value);
        },
      });
    }
  }

  /** One number that cannot be had is missing from the answer, and does not keep the others back. */
  async #read(metric: Metric): Promise<readonly Sample[]> {
    try {
      return samplesOf(await metric.read());
    } catch (error) {
      this.#log.warn({ err: error, metric: metric.name }, 'a metric could not be read');
      return [];
    }
  }
}

function samplesOf(reading: Reading): readonly Sample[] {
  if (reading === undefined) return [];
  return typeof reading === 'number' ? [{ labels: {}, value: reading }] : reading;
}

/** What has no labels is 0 after a reset, and would say so where nothing is known. */
function clear(metric: Gauge | Counter, labels: readonly string[]): void {
  metric.reset();
  if (labels.length === 0) metric.remove();
}

let ofProcess: Registry | undefined;

/**
 * The metrics of the process are the same whichever server in it is asked, and what measures them (a watch on garbage
 * collection, a timer for the event loop) can never be stopped again: all servers of a process share one.
 */
function processRegistry(): Registry {
  if (ofProcess === undefined) {
    ofProcess = new Registry();
    collectDefaultMetrics({ register: ofProcess });
  }
  return ofProcess;
}
