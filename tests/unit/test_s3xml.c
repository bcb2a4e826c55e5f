/* test_s3xml.c - S3's answers, whole, odd, hostile and cut at every byte. */
#include "unit.h"

#include "../../vfs/http.h"
#include "../../vfs/s3xml.h"

/* The text against an unreadable page: one byte too far crashes. */
static const char *guarded(const char *text)
{
    return (const char *)unit_guarded(text, strlen(text));
}

static void an_error(void)
{
    struct r2_s3_error e;
    const char *x = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- > --><Error xmlns=\"a>b\">"
                    "<Code>SlowDown</Code><Message>a &lt;b&gt; &#x41;&#66;\n</Message>"
                    "<ServerTime>2013-05-24T00:15:00Z</ServerTime><Deep><Code>No</Code></Deep>"
                    "</Error>";
    CU_ASSERT_TRUE(r2_s3_error(guarded(x), strlen(x), &e));
    CU_ASSERT_STRING_EQUAL(e.code, "SlowDown");
    CU_ASSERT_STRING_EQUAL(e.message, "a <b> AB?");
    CU_ASSERT_EQUAL(e.server_time_ms, 1369354500000);
}

static void no_error(void)
{
    static const char *const not [] = {"",
                                       "<html><body>Code</body></html>",
                                       "<Result><Code>X</Code></Result>",
                                       "<Error><Code>two words</Code></Error>",
                                       "<Error/>",
                                       "\n\n"};
    struct r2_s3_error e;
    for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
        CU_ASSERT_FALSE(r2_s3_error(guarded(not [i]), strlen(not [i]), &e));
    CU_ASSERT_FALSE(r2_s3_error(NULL, 0, &e));
}

static void a_value(void)
{
    const char *x = "  <s3:CompleteMultipartUploadResult xmlns:s3='u'><Bucket>b</Bucket>"
                    "<ETag>&quot;abc-2&quot;</ETag></s3:CompleteMultipartUploadResult>\n";
    const char *root = "CompleteMultipartUploadResult";
    char out[32];
    CU_ASSERT_TRUE(r2_s3_value(guarded(x), strlen(x), root, "ETag", out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "\"abc-2\"");
    CU_ASSERT_FALSE(r2_s3_value(x, strlen(x), root, "ETag", out, 7)); /* does not fit */
    CU_ASSERT_FALSE(r2_s3_value(x, strlen(x), root, "UploadId", out, sizeof out));
    CU_ASSERT_FALSE(r2_s3_value(x, strlen(x), "Error", "ETag", out, sizeof out));
    /* cut anywhere before its end, it is no answer */
    for (size_t n = 0; n < strlen(x) - 1; n++)
        CU_ASSERT_FALSE(
            r2_s3_value((const char *)unit_guarded(x, n), n, root, "ETag", out, sizeof out));
}

static void hostile(void)
{
    static const char *const bad[] = {
        "<!DOCTYPE a [<!ENTITY x \"y\">]><a><b>&x;</b></a>",
        "<a><b>&lol;</b></a>",
        "<a><b>&#0;</b></a>",
        "<a><b>&#xD800;</b></a>",
        "<a><b>&#x110000;</b></a>",
        "<a><b>&#99999999999999999999;</b></a>",
        "<a><b>&amp</b></a>",
        "<a><b>x</c></a>",
        "<a><b>x</b></a></a>",
        "<a><b>x</b>",
        "<a><b>x</b><![CDATA[</a>",
        "<a><b>x</b><!--</a>",
        "<a><b>x</b><></></a>",
        "<a x='><b>x</b></a>",
    };
    char out[32], deep[400] = "<a><b>x</b>";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (r2_s3_value(guarded(bad[i]), strlen(bad[i]), "a", "b", out, sizeof out))
            CU_FAIL(bad[i]);
    }
    for (size_t i = 11; i < 11 + 16 * 3; i += 3)
        memcpy(deep + i, "<d>", 3);
    for (size_t i = 11 + 16 * 3; i < 11 + 16 * 7; i += 4)
        memcpy(deep + i, "</d>", 4);
    memcpy(deep + 11 + 16 * 7, "</a>", 5);
    CU_ASSERT_FALSE(r2_s3_value(deep, strlen(deep), "a", "b", out, sizeof out));
    CU_ASSERT_FALSE(r2_s3_value("<a><b>x\0y</b></a>", 17, "a", "b", out, sizeof out));
    CU_ASSERT_TRUE(r2_s3_value("<a><b><![CDATA[&<]]></b></a>", 28, "a", "b", out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "&<");
    CU_ASSERT_TRUE(r2_s3_value("<a><b/></a>", 11, "a", "b", out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "");
    CU_ASSERT_TRUE(
        r2_s3_value("<a><b>&#233;&#x1F600;&#x20AC;</b></a>", 37, "a", "b", out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "\xc3\xa9\xf0\x9f\x98\x80\xe2\x82\xac");
}

struct seen {
    int count, stop_at;
    char keys[200];
    uint64_t bytes;
    int64_t modified_ms;
};

static bool on_object(void *ctx, const char *key, uint64_t size, int64_t modified_ms)
{
    struct seen *s = ctx;
    size_t n = strlen(s->keys);
    snprintf(s->keys + n, sizeof s->keys - n, "[%s]", key);
    s->bytes += size;
    s->modified_ms = modified_ms;
    return ++s->count != s->stop_at;
}

static const char LISTING[] =
    "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
    "<Contents><Key>a%2Fb+c%2B</Key><Size>5</Size><ETag>&quot;x&quot;</ETag>"
    "<LastModified>2013-05-24T00:00:00.123Z</LastModified><Owner><Key>no</Key></Owner></Contents>"
    "<Contents><Key>z&amp;</Key><Size>7</Size></Contents>"
    "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>"
    "<IsTruncated>true</IsTruncated><NextContinuationToken>t&gt;k</NextContinuationToken>"
    "<EncodingType>url</EncodingType></ListBucketResult>";

static void a_listing(void)
{
    struct r2_s3_page page;
    struct seen s = {0};
    size_t n = sizeof LISTING - 1;
    CU_ASSERT_TRUE(r2_s3_listing(guarded(LISTING), n, on_object, &s, &page));
    CU_ASSERT_STRING_EQUAL(s.keys, "[a/b c+][z&]");
    CU_ASSERT_EQUAL(s.bytes, 12);
    CU_ASSERT_TRUE(page.truncated && !page.stopped);
    CU_ASSERT_STRING_EQUAL(page.token, "t>k");
    memset(&s, 0, sizeof s);
    s.stop_at = 1;
    CU_ASSERT_TRUE(r2_s3_listing(LISTING, n, on_object, &s, &page));
    CU_ASSERT_EQUAL(s.count, 1);
    CU_ASSERT_EQUAL(s.modified_ms, 1369353600123);
    CU_ASSERT_TRUE(page.stopped);
}

/* A listing cut at any byte is refused, and nothing of it is told. */
static void a_cut_listing_tells_nothing(void)
{
    struct r2_s3_page page;
    struct seen s = {0};
    for (size_t n = 0; n < sizeof LISTING - 1; n++) {
        CU_ASSERT_FALSE(
            r2_s3_listing((const char *)unit_guarded(LISTING, n), n, on_object, &s, &page));
    }
    CU_ASSERT_EQUAL(s.count, 0);
}

static void wrong_listings(void)
{
#define L(x) "<ListBucketResult>" x "</ListBucketResult>"
#define F    "<IsTruncated>false</IsTruncated>"
    static const char *const bad[] = {
        L("<Contents><Key>a</Key><Size>1</Size></Contents>"), /* no IsTruncated */
        L(F "<Contents><Size>1</Size></Contents>"),
        L(F "<Contents><Key>a</Key></Contents>"),
        L(F "<Contents><Key></Key><Size>1</Size></Contents>"),
        L(F "<Contents><Key>a</Key><Size>-1</Size></Contents>"),
        L(F "<EncodingType>url</EncodingType><Contents><Key>a%4</Key><Size>1</Size></Contents>"),
        L(F "<EncodingType>url</EncodingType><Contents><Key>a%00</Key><Size>1</Size></Contents>"),
        L("<IsTruncated>true</IsTruncated>"), /* no token */
        "<html>" F "</html>",
    };
    struct r2_s3_page page;
    struct seen s = {0};
    char longer[3000] = "<ListBucketResult>" F "<Contents><Size>1</Size><Key>";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (r2_s3_listing(guarded(bad[i]), strlen(bad[i]), on_object, &s, &page)) CU_FAIL(bad[i]);
    size_t n = strlen(longer);
    memset(longer + n, 'k', 1025);
    snprintf(longer + n + 1025, sizeof longer - n - 1025, "</Key></Contents></ListBucketResult>");
    CU_ASSERT_FALSE(r2_s3_listing(longer, strlen(longer), on_object, &s, &page));
    CU_ASSERT_EQUAL(s.count, 0);
    memmove(longer + n, longer + n + 1, strlen(longer + n)); /* 1,024 bytes are a key */
    CU_ASSERT_TRUE(r2_s3_listing(longer, strlen(longer), on_object, &s, &page));
    CU_ASSERT_EQUAL(s.count, 1);
}

static void dates(void)
{
    CU_ASSERT_EQUAL(r2_http_date("Fri, 24 May 2013 00:00:00 GMT"), 1369353600000);
    CU_ASSERT_EQUAL(r2_http_date("Fri, 24 Mai 2013 00:00:00 GMT"), 0);
    CU_ASSERT_EQUAL(r2_http_date("Fri, 24 May 2013 25:00:00 GMT"), 0);
    CU_ASSERT_EQUAL(r2_http_date(""), 0);
    CU_ASSERT_EQUAL(r2_iso_date("2013-05-24T00:00:00.5Z"), 1369353600500);
    CU_ASSERT_EQUAL(r2_iso_date("2013-13-24T00:00:00Z"), 0);
    CU_ASSERT_EQUAL(r2_iso_date("yesterday"), 0);
}

UNIT_MAIN("s3xml", UNIT(an_error), UNIT(no_error), UNIT(a_value), UNIT(hostile), UNIT(a_listing),
          UNIT(a_cut_listing_tells_nothing), UNIT(wrong_listings), UNIT(dates))
