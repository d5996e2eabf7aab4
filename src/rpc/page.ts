import type { NodeResponse } from './node_http.js';

export const PAGE_PATH = '/';

/**
 * What a person sees who opens this server in a browser. Any site may link to it, so it holds no data, runs nothing
 * and is shown in no frame.
 */
export function sendPage(response: NodeResponse, isHead: boolean): void {
  const body = Buffer.from(PAGE);
  response.writeHead(200, {
    'content-type': 'text/html; charset=utf-8',
    'content-length': body.byteLength,
    'cache-control': 'no-store',
    'content-security-policy':
      "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
  });
  if (isHead) response.end();
  else response.end(body);
}

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Baton</title>
<h1>Baton</h1>
<p>A job service on PostgreSQL. This is its HTTP port: Connect, gRPC-Web and gRPC, and a stream of changes.</p>
<pre>
curl http://127.0.0.1:8080/baton.v1.JobService/CreateRun -H 'Content-Type: application/json' -d '{"repository": "hello"}'
curl http://127.0.0.1:8080/baton.v1.JobService/ListRuns -H 'Content-Type: application/json' -d '{}'
curl -N http://127.0.0.1:8080/v1/events
</pre>
<p>Also here: /healthz, /readyz and /metrics.</p>
</html>
`;
