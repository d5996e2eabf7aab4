import { isIPv4, isIPv6 } from 'node:net';
import { cors } from '@connectrpc/connect';
import { truncate } from '../base/text.js';
import { addVary, pathOf, type NodeRequest, type NodeResponse } from './node_http.js';
import { PAGE_PATH } from './page.js';
import { refuseAtGate } from './refusals.js';

/**
 * The gate for browsers: what a web page that somebody happens to look at may ask of this server. It stands before
 * everything else of the HTTP port, with and without authentication, on loopback too, since a browser on the same
 * machine reaches what no network does.
 *
 *     Host ──not ours──▶ 421        a name that an attacker pointed at this address (DNS rebinding)
 *      └▶ page of another origin ──not one of the allowed──▶ 403
 *
 * Who is no browser (curl, gRPC clients, other services) sends no Origin and no fetch metadata, and passes.
 */
export interface GateRules {
  /** Names of this server, in lower case, beside loopback names and IP literals. */
  readonly hosts: ReadonlySet<string>;
  /** Origins whose pages may use this server, as browsers write them: `https://app.example.com`. */
  readonly origins: ReadonlySet<string>;
}

/** Open to everybody under every name: they hold no data, and load balancers send odd Hosts. */
const OPEN_PATHS: ReadonlySet<string> = new Set(['/healthz', '/readyz']);

/** HTML without data, which a link on any site may open. */
const LINKED_PATHS: ReadonlySet<string> = new Set([PAGE_PATH]);

/** What the gate looks at. Headers are names and values in turn, as they came. */
export interface GateRequest {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly httpVersion: string;
  readonly rawHeaders: readonly string[];
}

/** A page of `origin`, which is another one than this server's, is allowed to see the answer. */
export type Verdict =
  | { readonly kind: 'pass'; readonly origin?: string }
  | { readonly kind: 'preflight'; readonly origin: string }
  | { readonly kind: 'refuse'; readonly status: 400 | 403 | 421; readonly message: string };

/** Decides on one request. Nothing of it has been parsed before but its headers. */
export function judge(rules: GateRules, request: GateRequest): Verdict {
  const headers = readHeaders(request.rawHeaders);
  const given = headers.get('origin');
  const origin = given !== undefined && rules.origins.has(given) ? given : undefined;
  if (!OPEN_PATHS.has(request.path)) {
    const refusal =
      judgeHosts(rules, request, headers) ?? (origin === undefined ? judgeSite(request, headers) : undefined);
    if (refusal !== undefined) return refusal;
  }
  if (origin === undefined) return { kind: 'pass' };
  const isPreflight = request.method === 'OPTIONS' && headers.has('access-control-request-method');
  return { kind: isPreflight ? 'preflight' : 'pass', origin };
}

type GateHeaders = ReadonlyMap<string, string>;

const READ = new Set([':authority', 'host', 'origin', 'access-control-request-method']);

/** One that comes twice gets a value that no browser sends, and so does not pass for either of the two. */
function readHeaders(raw: readonly string[]): GateHeaders {
  const headers = new Map<string, string>();
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i]?.toLowerCase() ?? '';
    if (!READ.has(name) && !name.startsWith('sec-fetch-')) continue;
    const before = headers.get(name);
    const value = raw[i + 1] ?? '';
    headers.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  return headers;
}

/** Undefined when every name that the request gives this server is one of its own. */
function judgeHosts(
  { hosts }: GateRules,
  { httpVersion }: GateRequest,
  headers: GateHeaders,
): Verdict | undefined {
  const given = [headers.get(':authority'), headers.get('host')].filter((value) => value !== undefined);
  // HTTP/1.0 has no Host, and no browser speaks it; checks by load balancers do.
  if (given.length === 0)
    return httpVersion === '1.0' ? undefined : refuse(400, 'the Host header is missing');
  for (const value of given) {
    const name = hostName(value);
    const isOwn =
      name !== undefined && (isIPv4(name) || isIPv6(name) || isLoopbackName(name) || hosts.has(name));
    // A port above 65535, or what else Node makes no URL of.
    if (name === undefined || (isOwn && !URL.canParse(`http://${value}`)))
      return refuse(400, `the Host header is malformed: ${JSON.stringify(truncate(value, 100))}`);
    if (isOwn) continue;
    return refuse(
      421,
      `${truncate(name, 100)} is not a name of this server; its names are set by BATON_HTTP_HOSTS or --http-hosts`,
    );
  }
  return undefined;
}

/** The name or address in `host[:port]`, without brackets, final dot and capitals; undefined when it is malformed. */
function hostName(value: string): string | undefined {
  const match = /^(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d{0,5})?$/i.exec(value);
  if (match?.[1] !== undefined) return isIPv6(match[1]) ? match[1].toLowerCase() : undefined;
  return match?.[2]?.toLowerCase().replace(/\.$/, '');
}

/** No DNS server is asked for these (RFC 6761). */
function isLoopbackName(name: string): boolean {
  return name === 'localhost' || name.endsWith('.localhost');
}

/** Undefined when no page of another origin made this request. */
function judgeSite(request: GateRequest, headers: GateHeaders): Verdict | undefined {
  const [origin, site] = [headers.get('origin'), headers.get('sec-fetch-site')];
  if (site === 'none' || site === 'same-origin') return undefined;
  // Browsers that are old, or see this server by plain HTTP beyond loopback, say no more than the Origin.
  if (site === undefined && (origin === undefined || isOwnOrigin(origin, headers))) return undefined;
  const isRead = request.method === 'GET' || request.method === 'HEAD';
  const isLink =
    isRead && headers.get('sec-fetch-mode') === 'navigate' && headers.get('sec-fetch-dest') === 'document';
  if (isLink && LINKED_PATHS.has(request.path)) return undefined;
  return refuse(
    403,
    `pages of ${truncate(origin ?? 'other sites', 100)} may not use this server; ` +
      'the origins that may are set by BATON_HTTP_ORIGINS or --http-origins',
  );
}

/** A proxy may speak TLS for this server, so the scheme is either. */
function isOwnOrigin(origin: string, headers: GateHeaders): boolean {
  const scheme = /^https?:\/\//.exec(origin)?.[0];
  const own = `${scheme}${headers.get(':authority') ?? headers.get('host')}`;
  if (scheme === undefined || !URL.canParse(origin) || !URL.canParse(own)) return false;
  return new URL(origin).host === new URL(own).host;
}

function refuse(status: 400 | 403 | 421, message: string): Verdict {
  return { kind: 'refuse', status, message };
}

/** Whether a request may go on; one that may not has been answered. Adds what a page of another origin needs. */
export function admit(rules: GateRules, request: NodeRequest, response: NodeResponse): boolean {
  const { method = '', httpVersion, rawHeaders } = request;
  const verdict = judge(rules, { method, path: pathOf(request), httpVersion, rawHeaders });
  // What a cache keeps for one origin is not for another.
  if (rules.origins.size > 0) addVary(response, 'origin');
  if (verdict.kind === 'refuse') {
    refuseAtGate(request, response, verdict);
    return false;
  }
  if (verdict.origin !== undefined) setCorsHeaders(response, verdict.origin);
  if (verdict.kind !== 'preflight') return true;
  request.resume();
  sendPreflight(response);
  return false;
}

/** Never `*`, and without leave to send cookies, of which Baton has none. */
function setCorsHeaders(response: NodeResponse, origin: string): void {
  response.setHeader('access-control-allow-origin', origin);
  response.setHeader('access-control-expose-headers', cors.exposedHeaders.join(', '));
}

/** The answer to a browser that asks before a request. */
function sendPreflight(response: NodeResponse): void {
  addVary(response, 'access-control-request-method, access-control-request-headers');
  response.setHeader('access-control-allow-methods', cors.allowedMethods.join(', '));
  response.setHeader('access-control-allow-headers', [...cors.allowedHeaders, ...MORE_HEADERS].join(', '));
  response.setHeader('access-control-max-age', PREFLIGHT_SECONDS);
  response.statusCode = 204;
  response.end();
}

/** Of `/v1/events` and of tracing. */
const MORE_HEADERS = ['Last-Event-ID', 'traceparent', 'tracestate'];

/** The longest that Chromium takes. */
const PREFLIGHT_SECONDS = 7200;
