/* sigv4_cli.c - sign what stdin says, one request per line, for sigv4_botocore.py.
 *
 * A line is words "letter=hex" (hex of the text; q and h: hex name, ':', hex value):
 *   m method  u host  p encoded path  q query pair  h header  b payload  k access key  s secret
 *   t session token  r region  d time in seconds (decimal text)  x seconds: presign
 * The answer is one line: the Authorization value, or the presigned query. */
#include "../../vfs/sigv4.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *unhex(const char *hex, size_t n)
{
    char *out = calloc(n / 2 + 1, 1);
    if (!out) exit(2);
    for (size_t i = 0; i + 1 < n; i += 2) {
        char two[3] = {hex[i], hex[i + 1], 0};
        uint64_t v;
        if (!r2_parse_hex64(two, 2, &v)) exit(2);
        out[i / 2] = (char)v;
    }
    return out;
}

static struct r2_pair pair(const char *text)
{
    const char *colon = strchr(text, ':');
    if (!colon) exit(2);
    return (struct r2_pair){unhex(text, (size_t)(colon - text)),
                            unhex(colon + 1, strlen(colon + 1))};
}

static void one(char *line)
{
    static struct r2_pair query[64], headers[64];
    static struct r2_credentials cred;
    struct r2_sigv4 s = {.query = query, .headers = headers, .cred = &cred};
    int64_t presign = 0;
    memset(&cred, 0, sizeof cred);
    for (char *save = NULL, *w = strtok_r(line, " \n", &save); w;
         w = strtok_r(NULL, " \n", &save)) {
        if (w[0] == 'q') {
            query[s.query_count++ % 64] = pair(w + 2);
            continue;
        }
        if (w[0] == 'h') {
            headers[s.header_count++ % 64] = pair(w + 2);
            continue;
        }
        char *v = unhex(w + 2, strlen(w + 2));
        uint64_t number = 0;
        if (w[0] == 'm')
            s.method = v;
        else if (w[0] == 'u')
            s.host = v;
        else if (w[0] == 'p')
            s.path = v;
        else if (w[0] == 'b')
            s.payload = v;
        else if (w[0] == 'r')
            s.region = v;
        else if (w[0] == 'k')
            r2_strcpy(cred.access_key, sizeof cred.access_key, v);
        else if (w[0] == 's')
            r2_strcpy(cred.secret_key, sizeof cred.secret_key, v);
        else if (w[0] == 't')
            r2_strcpy(cred.session_token, sizeof cred.session_token, v);
        else if (!r2_parse_u64(v, INT64_MAX, &number))
            exit(2);
        else if (w[0] == 'd')
            s.time_s = (int64_t)number;
        else if (w[0] == 'x')
            presign = (int64_t)number;
    }
    struct r2_buf out;
    r2_buf_init(&out, 65536);
    bool ok = presign ? r2_sigv4_presign(&s, presign, &out) : r2_sigv4_authorization(&s, &out);
    puts(ok ? out.at : "FAILED");
    r2_buf_free(&out);
}

int main(void)
{
    static char line[65536];
    while (fgets(line, sizeof line, stdin))
        one(line);
    return 0;
}
