import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.ArrayList;

/** Posts with the HTTP client of the JDK as it is. Arguments: an address, then a path and a body for each request. */
public class Predict {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        var calls = new ArrayList<HttpRequest>();
        for (int i = 1; i < arguments.length; i += 2) {
            var bytes = arguments[i + 1].getBytes("UTF-8");
            var uri = URI.create(arguments[0] + arguments[i]);
            calls.add(HttpRequest.newBuilder(uri).POST(BodyPublishers.ofByteArray(bytes)).build());
            // A stream has no length, so that it is sent in chunks.
            var stream = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes));
            calls.add(HttpRequest.newBuilder(uri).POST(stream).build());
        }
        for (var call : calls) {
            var response = client.send(call, BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.version() + " " + response.body());
        }
    }
}
