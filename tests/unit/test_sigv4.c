/* test_sigv4.c - AWS's five published S3 examples, and the rules for odd characters. */
#include "unit.h"

#include "../../vfs/sigv4.h"

static const struct r2_credentials AWS = {
    .access_key = "AKIAIOSFODNN7EXAMPLE",
    .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};
#define HEAD "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"

static struct r2_sigv4 example(const char *method, const char *path)
{
    return (struct r2_sigv4){
        .method = method,
        .host = "examplebucket.s3.amazonaws.com",
        .path = path,
        .payload = R2_EMPTY_SHA256,
        .cred = &AWS,
        .region = "us-east-1",
        .time_s = 1369353600, /* 20130524T000000Z */
    };
}

static void want_authorization(const struct r2_sigv4 *s, const char *want)
{
    struct r2_buf out;
    r2_buf_init(&out, 8192);
    CU_ASSERT_TRUE_FATAL(r2_sigv4_authorization(s, &out));
    CU_ASSERT_STRING_EQUAL(out.at, want);
    r2_buf_free(&out);
}

static void get_object_with_range(void)
{
    struct r2_pair h[] = {{"Range", "bytes=0-9"}};
    struct r2_sigv4 s = example("GET", "/test.txt");
    s.headers = h, s.header_count = 1;
    want_authorization(&s, HEAD "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
                                "Signature="
                                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

static void put_object(void)
{
    struct r2_pair h[] = {{"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                          {"Date", "Fri, 24 May 2013 00:00:00 GMT"}};
    char hash[R2_SHA256_HEX];
    struct r2_buf path;
    r2_buf_init(&path, 100);
    CU_ASSERT_TRUE(r2_sigv4_encode(&path, "/test$file.text", true));
    CU_ASSERT_TRUE(r2_sha256_hex("Welcome to Amazon S3.", 21, hash));
    struct r2_sigv4 s = example("PUT", path.at);
    s.headers = h, s.header_count = 2, s.payload = hash;
    want_authorization(&s, HEAD "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;"
                                "x-amz-storage-class,Signature="
                                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    r2_buf_free(&path);
}

static void get_bucket_lifecycle(void)
{
    struct r2_pair q[] = {{"lifecycle", NULL}};
    struct r2_sigv4 s = example("GET", "/");
    s.query = q, s.query_count = 1;
    want_authorization(&s, HEAD "SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature="
                                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

static void get_bucket_list(void)
{
    struct r2_pair q[] = {{"prefix", "J"}, {"max-keys", "2"}};
    struct r2_sigv4 s = example("GET", "/");
    s.query = q, s.query_count = 2;
    want_authorization(&s, HEAD "SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature="
                                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void presigned_get(void)
{
    struct r2_sigv4 s = example("GET", "/test.txt");
    struct r2_buf out;
    s.payload = R2_UNSIGNED_PAYLOAD;
    r2_buf_init(&out, 8192);
    CU_ASSERT_TRUE_FATAL(r2_sigv4_presign(&s, 86400, &out));
    CU_ASSERT_STRING_EQUAL(
        out.at,
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2F"
        "us-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&"
        "X-Amz-SignedHeaders=host&X-Amz-Signature="
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
    r2_buf_free(&out);
}

/* Sorted by the encoded name: '-' (2D) before '.', "a" before "a-b" though '=' comes after '-'. */
static void query_is_sorted_after_encoding(void)
{
    struct r2_pair q[] = {{"a-b", "1"},    {"a", "2/3"}, {"\xc3\xa9", " +"},
                          {"uploads", ""}, {"a", "1"},   {"Z", "%"}};
    struct r2_buf out;
    r2_buf_init(&out, 1000);
    CU_ASSERT_TRUE(r2_sigv4_query(&out, q, 6));
    CU_ASSERT_STRING_EQUAL(out.at, "%C3%A9=%20%2B&Z=%25&a=1&a=2%2F3&a-b=1&uploads=");
    r2_buf_free(&out);
}

static void every_byte_is_encoded(void)
{
    struct r2_buf out;
    r2_buf_init(&out, 1000);
    char all[256], want[1000];
    size_t n = 0;
    for (int i = 0; i < 255; i++)
        all[i] = (char)(i + 1);
    all[255] = 0;
    for (int c = 1; c < 256; c++) {
        bool keep = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                    strchr("-._~/", c);
        n += (size_t)snprintf(want + n, sizeof want - n, keep ? "%c" : "%%%02X", (unsigned)c);
    }
    CU_ASSERT_TRUE(r2_sigv4_encode(&out, all, true));
    CU_ASSERT_STRING_EQUAL(out.at, want);
    r2_buf_free(&out);
}

static void token_is_signed(void)
{
    struct r2_credentials cred = AWS;
    struct r2_sigv4 s = example("GET", "/x");
    struct r2_buf out;
    r2_buf_init(&out, 8192);
    CU_ASSERT_TRUE(r2_strcpy(cred.session_token, sizeof cred.session_token, "tok+/="));
    s.cred = &cred;
    CU_ASSERT_TRUE(r2_sigv4_authorization(&s, &out));
    CU_ASSERT_PTR_NOT_NULL(strstr(out.at, ";x-amz-date;x-amz-security-token,"));
    CU_ASSERT_PTR_NULL(strstr(out.at, "tok+"));
    r2_buf_reset(&out);
    CU_ASSERT_TRUE(r2_sigv4_presign(&s, 60, &out));
    CU_ASSERT_PTR_NOT_NULL(strstr(out.at, "&X-Amz-Security-Token=tok%2B%2F%3D&"));
    r2_buf_free(&out);
}

static void limits(void)
{
    struct r2_pair many[R2_SIGNED_MAX + 1];
    struct r2_sigv4 s = example("GET", "/x");
    struct r2_buf out;
    r2_buf_init(&out, 8192);
    for (size_t i = 0; i <= R2_SIGNED_MAX; i++)
        many[i] = (struct r2_pair){"x-amz-a", "b"};
    s.headers = many, s.header_count = R2_SIGNED_MAX - 3;
    CU_ASSERT_FALSE(r2_sigv4_authorization(&s, &out));
    s.header_count = 0, s.query = many, s.query_count = R2_SIGNED_MAX + 1;
    CU_ASSERT_FALSE(r2_sigv4_authorization(&s, &out));
    CU_ASSERT_FALSE(r2_sigv4_presign(&s, 1, &out));
    s.query_count = 0;
    out.max = 20; /* too small for any answer */
    CU_ASSERT_FALSE(r2_sigv4_authorization(&s, &out));
    r2_buf_free(&out);
}

UNIT_MAIN("sigv4", UNIT(get_object_with_range), UNIT(put_object), UNIT(get_bucket_lifecycle),
          UNIT(get_bucket_list), UNIT(presigned_get), UNIT(query_is_sorted_after_encoding),
          UNIT(every_byte_is_encoded), UNIT(token_is_signed), UNIT(limits))
