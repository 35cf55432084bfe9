import java.util.Arrays;
import org.codelibs.opensearch.runner.OpenSearchRunner;

/**
 * One node on loopback, run from its source: {@code java -cp 'LIBRARIES/*' Node.java FOLDER NAME=VALUE...}, where the last ones are
 * settings of OpenSearch. It ends with its process, or, if the environment says so, when it has started.
 */
public final class Node {
    public static void main(String[] words) throws Exception {
        OpenSearchRunner runner = new OpenSearchRunner();
        runner.onBuild((number, settings) -> {
            settings.put("network.host", "127.0.0.1");
            settings.put("discovery.type", "single-node");
            // How full the machine's disk is is nobody's business here.
            settings.put("cluster.routing.allocation.disk.threshold_enabled", false);
            for (String setting : Arrays.copyOfRange(words, 1, words.length)) {
                settings.put(setting.substring(0, setting.indexOf('=')), setting.substring(setting.indexOf('=') + 1));
            }
        });
        runner.build(OpenSearchRunner.newConfigs().basePath(words[0]).numOfNode(1));
        if (System.getenv("FLEETGLASS_NODE_ENDS") != null) {
            runner.ensureYellow();
            System.exit(0);
        }
        Thread.currentThread().join();
    }
}
