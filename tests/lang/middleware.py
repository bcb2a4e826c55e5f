"""middleware.py - a program that shares a SQLite database with r2vfs and knows only the object: any S3
library (boto3 here), any SQLite. The contract: the object is the database, its metadata db-version
counts up by one with each upload, and an upload replaces only the object that was read.

    notes = Middleware(client, "bucket", "users/42/app.db", "/var/cache/42.db")
    notes.refresh()                         # download when newer
    sqlite3.connect(notes.path)...          # read, or change and close
    notes.publish()                         # upload as the next version; Changed: refresh, do it again

r2vfs makes such an object unless it is told to use another layout (layout=object)."""

import hashlib
import os

import botocore.exceptions


class Changed(Exception):
    """Somebody else uploaded meanwhile: nothing was overwritten."""


def prepare(client):
    """What a boto3 client lacks for R2. put_object knows IfMatch and IfNoneMatch since 1.35 or so: teach
    an older one. And R2 does not answer "Expect: 100-continue": that is one second with each upload."""
    known = client.meta.service_model.operation_model("PutObject").input_shape.members
    headers = {name: header for name, header in (("IfMatch", "If-Match"), ("IfNoneMatch", "If-None-Match"))
               if name not in known}

    def take(params, context, **_):
        context["conditions"] = {headers[name]: params.pop(name) for name in headers if name in params}

    def give(params, context, **_):
        params["headers"].update(context.get("conditions", {}))

    def do_not_expect(request, **_):
        request.headers.pop("Expect", None)

    events = client.meta.events
    events.register("provide-client-params.s3.PutObject", take)
    events.register("before-call.s3.PutObject", give)
    events.register("before-send.s3.PutObject", do_not_expect)
    return client


class Middleware:
    def __init__(self, client, bucket, key, path):
        self.client, self.path = prepare(client), path
        self.where = {"Bucket": bucket, "Key": key}
        self.version, self.etag, self.metadata = 0, None, {}    # of the object that `path` is from

    def refresh(self):
        """Bring the file up to the object; True if there was something newer."""
        try:
            found = self.client.head_object(**self.where)
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            return False
        if int(found["Metadata"].get("db-version", 1)) <= self.version:
            return False
        got = self.client.get_object(**self.where)      # may be newer still: its own words count
        with open(self.path + ".new", "wb") as file:
            for chunk in got["Body"].iter_chunks(1 << 20):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.rename(self.path + ".new", self.path)
        self.metadata, self.etag = got["Metadata"], got["ETag"]
        self.version = int(self.metadata.get("db-version", 1))
        return True

    def publish(self):
        """The file becomes the next version; returns its number. Close all connections to it first:
        what is still in a -wal file is not in it."""
        with open(self.path, "rb") as file:
            body = file.read()
        if self.etag == '"' + hashlib.md5(body).hexdigest() + '"':
            return self.version         # unchanged bytes are no new version
        metadata = {**self.metadata, "db-version": str(self.version + 1)}   # r2vfs's own are kept
        condition = {"IfMatch": self.etag} if self.etag else {"IfNoneMatch": "*"}
        try:
            done = self.client.put_object(**self.where, Body=body, Metadata=metadata, **condition)
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                raise
            was, self.version, self.etag = self.version, 0, None    # refresh() takes what is there
            raise Changed(f"version {was} is no longer the newest") from error
        self.version, self.etag, self.metadata = self.version + 1, done["ETag"], metadata
        return self.version
